"""Ledgers of the same sources, some erased, are the same bytes."""

import sqlite3

import pytest

from nulls_jax import errors
from nulls_jax.data import ledger, ledger_writing
from nulls_jax.unlearning.erasure import ledger_copy

KEYS = [f"https://example.org/{'long/' * 20}{number}" for number in range(900)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
  with ledger_writing.Writer.create(path) as book:
    book.add_documents((key, 1, {"title": key[-9:]}) for key in KEYS)
  return path


def copy(source, target, keys):
  with ledger.Ledger.open(source) as book:
    sources = book.find(keys, allow_erased=True)
  ledger_copy.write(source, target, sources)
  return target


def test_order_and_grouping_do_not_show(original, tmp_path):
  at_once = copy(original, tmp_path / "at once", KEYS[100:500])
  source = original
  for number, keys in enumerate(
    (KEYS[300:500], KEYS[100:101], KEYS[100:400][::-1])
  ):
    source = copy(source, tmp_path / str(number), keys)
  assert source.read_bytes() == at_once.read_bytes()
  again = copy(at_once, tmp_path / "again", KEYS[100:102])
  assert again.read_bytes() == at_once.read_bytes()
  assert at_once.stat().st_size < original.stat().st_size
  for key in KEYS[100:500:50]:
    assert key.encode() in original.read_bytes()
    assert key.encode() not in at_once.read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "0",
    "1",
    "2",
    "again",
    "at once",
  ]


def test_a_damaged_ledger_is_the_users(original, tmp_path):
  content = bytearray(original.read_bytes())
  content[8192:-4096] = bytes(len(content) - 12288)
  (tmp_path / "damaged").write_bytes(content)
  with pytest.raises(errors.UserError, match=r"damaged is damaged: .*malform"):
    ledger_copy.write(tmp_path / "damaged", tmp_path / "copy", [])


def test_a_full_disk_is_the_machines(original, tmp_path, monkeypatch):
  class Full:
    def execute(self, *_):
      raise sqlite3.OperationalError("database or disk is full")

    def close(self):
      pass

  monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: Full())
  with pytest.raises(errors.MachineError, match="disk is full; check the disk"):
    ledger_copy.write(original, tmp_path / "copy", [])
