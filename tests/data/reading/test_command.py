"""`nulls prepare` with inputs that cannot be read: one line, exit status 2."""

import gzip
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

GOOD = b'{"source": "a", "text": "t"}\n'


def _corpora(root):
  """Return what may be wrong: arguments, and what the line says."""
  (root / "cut.jsonl.gz").write_bytes(gzip.compress(GOOD * 900)[:-9])
  (root / "nulls.jsonl").write_bytes(GOOD + GOOD.replace(b'"t"', b'"\\u0000"'))
  (root / "plain.jsonl").write_bytes(GOOD)
  pq.write_table(pa.table({"body": ["t"]}), root / "other.parquet")
  (root / "empty").mkdir()
  return {
    "cut": (["cut.jsonl.gz"], r"cut\.jsonl\.gz:\d+: damaged gzip"),
    "nulls": (["nulls.jsonl"], r"jsonl:2: text holds a null character"),
    "schema": (["other.parquet"], r"other\.parquet has no field 'text', 'sour"),
    "folder": (["empty"], "empty holds no file"),
    "absent": (["absent"], "absent does not exist"),
    "scheme": (["s3://x/y"], "unknown scheme 's3'"),
    "dataset": (
      ["tfds:c4/en", "--data-dir", "."],
      r"tfds:c4/en is not in .*: tfds build c4/en --file_format=array_record",
    ),
    "rule": (["plain.jsonl", "--sources", "author"], "--sources author is no"),
    "clusters": (
      ["plain.jsonl", "--sources", "cluster:50"],
      "cluster:50: only 0 documents of the sample have no source",
    ),
  }


@pytest.mark.parametrize(
  "case",
  [
    "cut",
    "nulls",
    "schema",
    "folder",
    "absent",
    "scheme",
    "dataset",
    "rule",
    "clusters",
  ],
)
def test_bad_inputs(tmp_path, monkeypatch, refused, case):
  monkeypatch.chdir(tmp_path)
  arguments, line = _corpora(tmp_path)[case]
  found = refused(
    "prepare",
    "--out",
    tmp_path / "out",
    "--workers=1",
    "--documents",
    *arguments,
  )
  assert re.search(line, found)
