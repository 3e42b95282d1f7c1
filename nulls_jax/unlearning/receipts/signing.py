"""Signatures of receipts: DSSE envelopes with Ed25519.

Owns the envelope around a statement's bytes and the key files, both through
`securesystemslib`, which the extra `sign` installs and nothing else needs.
Knows nothing of what a statement says.

Invariant: what is signed is the statement's bytes, exactly, under the payload
type of in-toto; any DSSE tool can check it with the public key.

OpenSSL makes a pair of keys:

  openssl genpkey -algorithm ed25519 -out key.pem
  openssl pkey -in key.pem -pubout -out public.pem
"""

import base64
import json
import pathlib
import types
from typing import Any

from nulls_jax import errors

PAYLOAD_TYPE = "application/vnd.in-toto+json"

_MAKE_PRIVATE = "make one with: openssl genpkey -algorithm ed25519 -out key.pem"
_MAKE_PUBLIC = (
  "take it from the private key with: openssl pkey -in key.pem -pubout"
)


def sign(statement: bytes, private_key: pathlib.Path) -> bytes:
  """Return the envelope of a statement, as JSON.

  Raises:
    errors.UserError: the file is no private Ed25519 key, or the extra `sign`
      is not installed.
  """
  envelope = _library().dsse.Envelope(statement, PAYLOAD_TYPE, {})
  envelope.sign(read_private_key(private_key))
  return _encode(envelope.to_dict())


def read_private_key(path: pathlib.Path) -> Any:
  """Return the `securesystemslib` signer of a PEM file; errors as `sign`."""
  library = _library()
  content = _read(path, "private")
  try:
    key = library.serialization.load_pem_private_key(content, None)
  except TypeError as error:
    raise errors.UserError(
      f"{path} is protected by a passphrase; give a key without one, as "
      "openssl pkey -in key.pem -out open.pem writes it"
    ) from error
  except (ValueError, library.UnsupportedAlgorithm) as error:
    raise errors.UserError(
      f"{path} is no private key in PEM; {_MAKE_PRIVATE}"
    ) from error
  if not isinstance(key, library.ed25519.Ed25519PrivateKey):
    raise errors.UserError(
      f"{path} is a private key of another kind than Ed25519; {_MAKE_PRIVATE}"
    )
  return library.signer.CryptoSigner(key)


def read_public_key(path: pathlib.Path) -> Any:
  """Return the `securesystemslib` key of a PEM file; errors as `sign`."""
  library = _library()
  content = _read(path, "public")
  try:
    key = library.serialization.load_pem_public_key(content)
  except (ValueError, library.UnsupportedAlgorithm) as error:
    raise errors.UserError(
      f"{path} is no public key in PEM; {_MAKE_PUBLIC}"
    ) from error
  if not isinstance(key, library.ed25519.Ed25519PublicKey):
    raise errors.UserError(
      f"{path} is a public key of another kind than Ed25519; {_MAKE_PUBLIC}"
    )
  return library.signer.SSlibKey.from_crypto(key)


def check(
  envelope: bytes, statement: bytes, public_key: pathlib.Path
) -> str | None:
  """Say what is wrong with an envelope; None if it is good.

  Raises:
    errors.UserError: the file is no public Ed25519 key, or the extra `sign`
      is not installed.
  """
  library = _library()
  key = read_public_key(public_key)
  problem = payload_problem(envelope, statement)
  if problem:
    return problem
  try:
    parsed = library.dsse.Envelope.from_dict(json.loads(envelope))
    parsed.verify([key], 1)
  except library.VerificationError:
    return f"not signed with {public_key}"
  except (
    library.FormatError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
  ) as error:
    return f"its signatures cannot be read ({error})"
  return None


def envelope_of(statement: bytes, signatures: list[dict[str, str]]) -> bytes:
  """Return the envelope of a statement with these signatures."""
  payload = base64.b64encode(statement).decode()
  return _encode(
    {
      "payload": payload,
      "payloadType": PAYLOAD_TYPE,
      "signatures": signatures,
    }
  )


def payload_problem(envelope: bytes, statement: bytes) -> str | None:
  """Say how an envelope is not a statement's; needs no extra and no key."""
  try:
    content = json.loads(envelope)
    kind, signatures = content["payloadType"], content["signatures"]
    payload = base64.b64decode(content["payload"], validate=True)
    for text in (content["payload"], *(one["sig"] for one in signatures)):
      # Base64 has bits that nobody reads.
      if base64.b64encode(base64.b64decode(text)).decode() != text:
        return "it was edited: not base64 as it is written"
  except (ValueError, KeyError, TypeError) as error:
    return f"no DSSE envelope ({error})"
  if _encode(content) != envelope:
    return "it was edited: not the bytes that were written"
  if kind != PAYLOAD_TYPE:
    return f"its payload type is {kind!r}, not {PAYLOAD_TYPE!r}"
  if payload != statement:
    return "it holds another statement"
  return None if signatures else "it holds no signature"


def _encode(envelope: dict[str, Any]) -> bytes:
  text = json.dumps(envelope, sort_keys=True, separators=(",", ":"))
  return f"{text}\n".encode()


def _read(path: pathlib.Path, kind: str) -> bytes:
  try:
    return pathlib.Path(path).read_bytes()
  except OSError as error:
    raise errors.UserError(
      f"{path}: the {kind} key cannot be read ({error.strerror}); give a PEM "
      "file"
    ) from error


def _library() -> types.SimpleNamespace:
  """Return what is used of the two libraries."""
  try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from securesystemslib import dsse, signer
    from securesystemslib.exceptions import FormatError, VerificationError
  except ImportError as error:
    raise errors.UserError(
      "signatures need securesystemslib; install it with: pip install "
      "'nulls_jax[sign]'"
    ) from error
  return types.SimpleNamespace(
    dsse=dsse,
    signer=signer,
    serialization=serialization,
    ed25519=ed25519,
    UnsupportedAlgorithm=UnsupportedAlgorithm,
    FormatError=FormatError,
    VerificationError=VerificationError,
  )
