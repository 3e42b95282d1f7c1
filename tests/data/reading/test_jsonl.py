"""JSON Lines: what a document is, and one clear line for what is none."""

import gzip
import hashlib
import json
import sys

import pytest

from nulls_jax import errors
from nulls_jax.data.reading import documents, extra, inputs


def _write(tmp_path, content, name="documents.jsonl"):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def _zstd():
  return extra.zstd("this test")


def _read(path, **settings):
  """Read a file through `open`, in one block."""
  opened = inputs.open([path], inputs.Settings(**settings))
  (block,) = opened.blocks(2**40)
  return list(opened.documents(block))


def test_documents_with_metadata(tmp_path):
  path = _write(
    tmp_path,
    '{"source": "ä b", "text": " x\\n", "title": "T", "year": 3}\n'
    '{"text": "no line end", "source": "c"}',
  )
  first, second = inputs.read_documents(path)
  assert (first.source, first.text) == ("ä b", " x\n")
  assert first.metadata == {"title": "T", "year": 3}
  assert first.where == f"{path}:1"
  assert (second.source, second.metadata) == ("c", {})
  assert [first, second] == _read(path)


def test_metadata_are_json_for_any_reader(tmp_path):
  """Python writes NaN, and one would break every search by metadata."""
  line = b'{"source": "a", "text": "t", "x": [NaN, 1.5, {"y": -Infinity}]}\n'
  (document,) = _read(_write(tmp_path, line))
  assert document.metadata == {"x": [None, 1.5, {"y": None}]}


def test_packed_files_read_the_same(tmp_path):
  line = b'{"source": "a", "text": "t"}\n'
  packers = {"gz": gzip.compress, "zst": _zstd().compress}
  for suffix, pack in packers.items():
    # Two members or frames, as `cat` of two packed files leaves them.
    content = pack(line * 2) + pack(line)
    path = _write(tmp_path, content, f"documents.jsonl.{suffix}")
    assert [d.where for d in _read(path)] == [f"{path}:{n}" for n in (1, 2, 3)]
    assert [d.source for d in inputs.read_documents(path)] == ["a"] * 3
    # It has no ranges: it can only be read from its start.
    assert len(inputs.open([path]).blocks(10)) == 1


GOOD = b'{"source": "a", "text": "t"}\n'
BAD_LINES = {
  "not JSON": b"source: a",
  "not readable JSON": b'{"text": ' + b"1" * 5000 + b"}",
  "not a JSON object but list": b'["a", "t"]',
  "not a JSON object but null": b"null",
  "a field stands twice": b'{"a": {"b": 1, "b": 2, "c": 3}}',
  "nested too deeply": (
    b'{"source": "a", "text": "t", "x": ' + b"[" * 400 + b"]" * 400 + b"}"
  ),
  "no text": b'{"source": "a"}',
  "text is empty": b'{"source": "a", "text": " \\n"}',
  "text is not a string but int": b'{"source": "a", "text": 3}',
  "text is not valid Unicode": b'{"source": "a", "text": "\\ud800"}',
  r"text holds a null character \(U\+0000\)": (
    b'{"source": "a", "text": "t\\u0000t"}'
  ),
  "no source": b'{"text": "t"}',
  "source is not a string but int": b'{"source": 7, "text": "t"}',
  "source key is longer than 4096 bytes": json.dumps(
    {"source": "ä" * 2049, "text": "t"}
  ).encode(),
  "source key is not valid Unicode": b'{"source": "\\udfff", "text": "t"}',
  "not UTF-8": b'{"source": "a", "text": "\xff"}',
  "empty line": b"",
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_bad_line_names_its_place(tmp_path, reason):
  path = _write(tmp_path, GOOD + BAD_LINES[reason] + b"\n" + GOOD)
  with pytest.raises(
    errors.UserError, match=f"documents.jsonl:2: {reason}.*;"
  ) as caught:
    list(inputs.read_documents(path))
  assert "\n" not in str(caught.value)
  with pytest.raises(errors.UserError, match=f"documents.jsonl:2: {reason}"):
    _read(path)


def test_refusals_are_counted_by_reason(tmp_path):
  bad = [*BAD_LINES.values(), BAD_LINES["no text"]]
  path = _write(tmp_path, GOOD + b"\n".join(bad) + b"\n" + GOOD)
  refusals = documents.Refusals()
  assert len(list(inputs.read_documents(path, refusals=refusals))) == 2
  assert refusals.total == len(bad)
  assert refusals.counts["no text"] == 2
  # Reasons are a fixed few, never parts of the text.
  assert len(refusals.counts) == len(BAD_LINES)
  assert f"{path}:8: no text" in refusals.first["no text"]
  assert refusals.first["a field stands twice"].endswith("; keep one 'b'")


def test_a_line_too_long_is_one_refusal_and_reading_goes_on(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(documents, "MAX_RECORD_BYTES", 60)
  monkeypatch.setattr("nulls_jax.data.reading.lines._SKIP_BYTES", 7)
  fits = GOOD.rstrip() + b" " * (60 - len(GOOD)) + b"\n"
  assert len(fits) == 60
  over = GOOD.rstrip() + b" " * 62 + b"\n"
  path = _write(tmp_path, GOOD + fits + over + b"x" * 500 + b"\n" + GOOD)
  with pytest.raises(errors.UserError, match=r"jsonl:3: line is longer than"):
    _read(path)
  opened = inputs.open([path])
  for block_bytes in (1, 13, 50, 10_000):
    refusals = documents.Refusals()
    found = [
      document.where
      for block in opened.blocks(block_bytes)
      for document in opened.documents(block, refusals)
    ]
    assert found == [f"{path}:{number}" for number in (1, 2, 5)]
    assert list(refusals.counts.values()) == [2]
    (first,) = refusals.first.values()
    assert first.startswith(f"{path}:3: line is longer")


def test_blocks_hold_every_line_once_with_its_number(tmp_path):
  lines = [
    json.dumps({"source": str(n), "text": "é" * (1 + n * 7919 % 97)})
    for n in range(60)
  ]
  lines[17] = lines[41] = "bad"
  content = "\n".join(lines).encode()
  for end in (b"", b"\n"):
    path = _write(tmp_path, content + end)
    opened = inputs.open([path])
    for block_bytes in (37, 100, 997, len(content), 10**9):
      total, numbers = documents.Refusals(), []
      for block in opened.blocks(block_bytes):
        refusals = documents.Refusals()
        for document in opened.documents(block, refusals):
          numbers.append(int(document.source))
          assert document.where == f"{path}:{numbers[-1] + 1}"
        # As a worker hands them over.
        text = json.dumps(refusals.to_dict())
        total.merge(documents.Refusals.from_dict(json.loads(text)))
      assert numbers == [n for n in range(60) if n not in (17, 41)]
      assert dict(total.counts) == {"not JSON": 2}
      assert total.first["not JSON"].startswith(f"{path}:18: not JSON;")


def test_blocks_that_start_at_lines(tmp_path):
  path = _write(tmp_path, GOOD * 12)
  opened = inputs.open([path])
  for block_bytes in range(1, 3 * len(GOOD)):
    found = [
      document.where
      for block in opened.blocks(block_bytes)
      for document in opened.documents(block)
    ]
    assert found == [f"{path}:{number}" for number in range(1, 13)]


def test_lines_before_are_not_counted_for_every_document(tmp_path, monkeypatch):
  path = _write(tmp_path, GOOD * 200 + b"bad\n" * 100)
  counted = []
  real = documents._count_lines
  monkeypatch.setattr(
    documents,
    "_count_lines",
    lambda *place: counted.append(place) or real(*place),
  )
  opened, refusals = inputs.open([path]), documents.Refusals()
  for block in opened.blocks(500):
    list(opened.documents(block, refusals))
  assert (refusals.total, counted) == (100, [])
  assert refusals.first["not JSON"].startswith(f"{path}:201: ")
  assert len(counted) == 1


def test_key_of_just_4096_bytes(tmp_path):
  line = json.dumps({"source": "ä" * 2048, "text": "t"})
  (document,) = inputs.read_documents(_write(tmp_path, line))
  assert len(document.source) == 2048


@pytest.mark.parametrize("source", ['"source": "", ', '"source": null, ', ""])
def test_no_source_only_on_demand(tmp_path, source):
  path = _write(tmp_path, "{" + source + '"text": "t"}\n')
  with pytest.raises(errors.UserError, match=r"no source.*--allow-no-source"):
    list(inputs.read_documents(path))
  (document,) = inputs.read_documents(path, allow_no_source=True)
  assert document.source == ""
  assert _read(path, allow_no_source=True) == [document]


def test_a_byte_order_mark_is_no_text(tmp_path):
  mark = b"\xef\xbb\xbf"
  path = _write(tmp_path, mark + GOOD + mark + GOOD)
  refusals = documents.Refusals()
  assert len(list(inputs.read_documents(path, refusals=refusals))) == 1
  assert f"{path}:2: not JSON" in refusals.first["not JSON"]


def test_missing_empty_and_directory(tmp_path):
  with pytest.raises(errors.UserError, match=r"absent\.jsonl cannot be read"):
    list(inputs.read_documents(tmp_path / "absent.jsonl"))
  with pytest.raises(errors.UserError, match=r"absent\.jsonl does not exist"):
    inputs.open([tmp_path / "absent.jsonl"])
  for name, content in {
    "documents.jsonl": b"",
    "packed.jsonl.gz": gzip.compress(b""),
    "packed.jsonl.zst": _zstd().compress(b""),
  }.items():
    with pytest.raises(errors.UserError, match=f"{name} is empty"):
      list(inputs.read_documents(_write(tmp_path, content, name)))
  with pytest.raises(errors.UserError, match="is a directory"):
    list(inputs.read_documents(tmp_path))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_damage_raises_even_when_refusing(tmp_path, suffix):
  lines = b"".join(
    b'{"source": "%d", "text": "%d"}\n' % (i, i * i) for i in range(5000)
  )
  checked = {_zstd().CompressionParameter.checksum_flag: 1}
  pack = {
    "gz": gzip.compress,
    # As the `zstd` program writes it.
    "zst": lambda content: _zstd().compress(content, options=checked),
  }[suffix]
  name = {"gz": "gzip", "zst": "Zstandard"}[suffix]
  whole = pack(lines)
  broken = whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]
  plain = GOOD
  for content in (whole[:-20], broken, plain):
    cut = _write(tmp_path, content, f"cut.jsonl.{suffix}")
    with pytest.raises(
      errors.UserError, match=rf"cut\.jsonl\.{suffix}:\d+: damaged {name}"
    ) as caught:
      list(inputs.read_documents(cut, refusals=documents.Refusals()))
    assert "\n" not in str(caught.value)


def test_a_file_that_changes_is_not_cut_wrongly(tmp_path):
  path = _write(tmp_path, GOOD * 5)
  opened = inputs.open([path])
  blocks = opened.blocks(40)
  _write(tmp_path, GOOD * 6)
  with pytest.raises(errors.UserError, match="has changed while it was read"):
    list(opened.documents(blocks[-1]))


def test_digests_are_of_the_content_and_stamps_are_of_the_file(tmp_path):
  path = _write(tmp_path, GOOD)
  opened = inputs.open([path])
  assert opened.digests() == [hashlib.sha256(path.read_bytes()).hexdigest()]
  digests, stamp = opened.digests(), opened.stamp()
  other = tmp_path / "other"
  other.mkdir()
  moved = inputs.open([_write(other, GOOD)])
  assert moved.digests() == digests
  _write(tmp_path, GOOD.replace(b"t}", b"u}") + b"\n")
  assert inputs.open([path]).digests() != digests
  assert opened.stamp() != stamp


def test_a_sample_comes_from_everywhere_and_is_the_same_again(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(inputs, "_SAMPLE_BLOCK_BYTES", 200)
  lines = [json.dumps({"source": str(n), "text": "t"}) for n in range(1000)]
  lines[3] = "bad"
  opened = inputs.open([_write(tmp_path, "\n".join(lines))])
  sample = [int(document.source) for document in opened.sample(100, 10**9)]
  assert len(sample) == len(set(sample)) == 100
  assert len({number // 100 for number in sample}) == 10
  again = opened.sample(100, 10**9)
  assert [int(document.source) for document in again] == sample
  assert len(list(opened.sample(100, 5))) == 5
  everything = {int(d.source) for d in opened.sample(10**6, 10**9)}
  assert everything == set(range(1000)) - {3}


def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch):
  path = _write(tmp_path, b"", "a.jsonl.zst")
  path.write_bytes(_zstd().compress(GOOD))
  module = (
    "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
  )
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(
    errors.UserError, match=r"zstd.*pip install 'nulls_jax\[corpora\]'"
  ):
    list(inputs.read_documents(path))
