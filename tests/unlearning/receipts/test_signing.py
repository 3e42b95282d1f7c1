"""Envelopes: ours, read by securesystemslib alone, and damaged ones."""

import base64
import json
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib import dsse
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from nulls_jax import errors
from nulls_jax.unlearning.receipts import signing

STATEMENT = '{"ü":1}\n'.encode()


def write_pair(directory, key, password=None):
  pem = serialization.Encoding.PEM
  encryption = (
    serialization.BestAvailableEncryption(password)
    if password
    else serialization.NoEncryption()
  )
  private, public = directory / "key.pem", directory / "public.pem"
  private.write_bytes(
    key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption)
  )
  public.write_bytes(
    key.public_key().public_bytes(
      pem, serialization.PublicFormat.SubjectPublicKeyInfo
    )
  )
  return private, public


@pytest.fixture
def pair(tmp_path):
  return write_pair(tmp_path, ed25519.Ed25519PrivateKey.generate())


def test_securesystemslib_alone_accepts_it(pair):
  private, public = pair
  envelope = dsse.Envelope.from_dict(
    json.loads(signing.sign(STATEMENT, private))
  )
  assert envelope.payload == STATEMENT
  assert envelope.payload_type == "application/vnd.in-toto+json"
  key = SSlibKey.from_crypto(
    serialization.load_pem_public_key(public.read_bytes())
  )
  assert list(envelope.verify([key], 1).values()) == [key]
  envelope.payload += b" "
  with pytest.raises(VerificationError, match=r"0 out of 1|signature"):
    envelope.verify([key], 1)


def test_good_and_stable(pair):
  private, public = pair
  envelope = signing.sign(STATEMENT, private)
  assert signing.check(envelope, STATEMENT, public) is None
  assert signing.payload_problem(envelope, STATEMENT) is None
  assert signing.sign(STATEMENT, private) == envelope


@pytest.mark.skipif(
  shutil.which("openssl") is None,
  reason="needs OpenSSL's command line, which CI's image has",
)
def test_keys_that_openssl_made(tmp_path):
  """The two commands of the module's docstring."""
  commands = [
    line.split()
    for line in signing.__doc__.splitlines()
    if line.startswith("  openssl ")
  ]
  assert len(commands) == 2
  for command in commands:
    subprocess.run(command, cwd=tmp_path, check=True, timeout=30)
  envelope = signing.sign(STATEMENT, tmp_path / "key.pem")
  public = tmp_path / "public.pem"
  assert signing.check(envelope, STATEMENT, public) is None


def change(**fields):
  def apply(content):
    content.update(fields)

  return apply


def flip_signature(content):
  raw = bytearray(base64.b64decode(content["signatures"][0]["sig"]))
  raw[0] ^= 1
  content["signatures"][0]["sig"] = base64.b64encode(raw).decode()


def use_free_bits(content):
  # Two paddings: the last character has four bits that nobody reads.
  text = content["signatures"][0]["sig"]
  assert text.endswith("==")
  letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  other = letters[letters.index(text[-3]) ^ 1]
  content["signatures"][0]["sig"] = f"{text[:-3]}{other}=="


def twice(content):
  content["signatures"] *= 2


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (change(payload="eA=="), "holds another statement"),
    (change(payload="?"), "no DSSE envelope"),
    (change(payloadType="text/plain"), "payload type is 'text/plain'"),
    (change(signatures=[]), "holds no signature"),
    (change(signatures=7), "no DSSE envelope"),
    (lambda content: content.pop("payload"), "no DSSE envelope"),
    (flip_signature, "not signed with"),
    (use_free_bits, "was edited: not base64 as it is written"),
    (twice, "signatures cannot be read"),
  ],
)
def test_a_damaged_envelope(damage, message, pair):
  private, public = pair
  content = json.loads(signing.sign(STATEMENT, private))
  damage(content)
  text = json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n"
  assert message in signing.check(text.encode(), STATEMENT, public)


def test_an_envelope_in_other_bytes(pair):
  private, public = pair
  envelope = signing.sign(STATEMENT, private)
  for other in (envelope[:-1], envelope.replace(b",", b", "), b"[]", b"\xff"):
    assert signing.check(other, STATEMENT, public)


def test_another_key(pair, tmp_path):
  envelope = signing.sign(STATEMENT, pair[0])
  (tmp_path / "other").mkdir()
  _, other = write_pair(
    tmp_path / "other", ed25519.Ed25519PrivateKey.generate()
  )
  assert "not signed with" in signing.check(envelope, STATEMENT, other)


def test_keys_that_are_none(pair, tmp_path):
  private, public = pair
  envelope = signing.sign(STATEMENT, private)
  (tmp_path / "ec").mkdir()
  other = write_pair(tmp_path / "ec", ec.generate_private_key(ec.SECP256R1()))
  (tmp_path / "text.pem").write_text("no key")
  (tmp_path / "locked").mkdir()
  locked, _ = write_pair(
    tmp_path / "locked", ed25519.Ed25519PrivateKey.generate(), b"word"
  )
  for path, message in (
    (tmp_path / "none.pem", r"private key cannot be read \(No such file"),
    (tmp_path / "text.pem", r"text\.pem is no private key in PEM; make one"),
    (public, r"public\.pem is no private key in PEM; make one with: openssl"),
    (other[0], r"private key of another kind than Ed25519; make one with"),
    (locked, r"protected by a passphrase; give a key without one"),
  ):
    with pytest.raises(errors.UserError, match=message):
      signing.sign(STATEMENT, path)
  for path, message in (
    (tmp_path / "none.pem", r"public key cannot be read \(No such file"),
    (private, r"key\.pem is no public key in PEM; take it from the private"),
    (other[1], r"public key of another kind than Ed25519; take it"),
  ):
    with pytest.raises(errors.UserError, match=message):
      signing.check(envelope, STATEMENT, path)


def test_without_the_extra(pair, monkeypatch):
  monkeypatch.setitem(sys.modules, "securesystemslib", None)
  with pytest.raises(errors.UserError, match=r"pip install 'nulls_jax\[sign\]"):
    signing.sign(STATEMENT, pair[0])
  # What needs no library goes on.
  assert "no DSSE" in signing.payload_problem(b"{}", STATEMENT)
