"""The benchmark of `find`: its dataset is a real one, its queries find."""

import json

import pytest

from nulls_jax import errors
from nulls_jax.bench import corpus, search
from nulls_jax.bench.settings import SearchSettings
from nulls_jax.data import ledger, ledger_writing, passages, phrases
from nulls_jax.data.preparation import dataset

COUNT = 100


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(corpus, "_NUM_WORDS", 2000)
    patch.setattr(corpus, "_TOKENIZER_TEXTS", 400)
    directory = tmp_path_factory.mktemp("bench") / "set"
    seconds = corpus.make(directory, COUNT, seed=3)
    assert set(seconds) == {"ledger", "rows", "index"}
    yield directory


def test_every_passage_is_whole_and_has_its_own_word(made):
  prepared = dataset.Prepared.open(made)
  owns = {corpus.own_word(index) for index in range(1, COUNT + 1)}
  assert len(owns) == COUNT
  known = {corpus.word(rank) for rank in range(2000)}
  with passages.Index.open(prepared) as index:
    assert index.num_passages == COUNT
    for source in range(1, COUNT + 1):
      own = corpus.own_word(source)
      assert list(index.search(phrases.phrase([own]))) == [corpus.place(source)]
      first, *words = index.text(corpus.place(source)).split()
      assert first == own
      # The last word may be cut where the passage is full.
      assert set(words[:-1]) < known
      assert 20 < len(words) < 72


def test_the_ledger_is_one_that_the_ledger_itself_could_write(made, tmp_path):
  with ledger.Ledger.open(made / "ledger.sqlite") as book:
    found = list(book)
    fingerprint = book.fingerprint()
  with ledger_writing.Writer.create(tmp_path / "slow") as book:
    book.add_documents((s.key, s.num_documents, s.metadata) for s in found)
    assert book.fingerprint() == fingerprint
    assert [s.metadata for s in book] == [s.metadata for s in found]
  assert (found[0].key, found[-1].key) == ("article/0000001", "article/0000100")


def test_the_report(made):
  out = search.run(SearchSettings(sources=COUNT, out=made, repeats=1))
  report = json.loads((made / "search.json").read_text())
  found = {name: one["sources"] for name, one in report["milliseconds"].items()}
  assert all(name in out for name in found)
  assert found["1 key"] == 1
  assert found["quotation of 8 words"] == 1
  assert found["quotation of 1 rare word"] == 1
  assert found["40 words, every 7th changed"] >= 1
  assert found["a key that is unknown"] == 0
  assert report["made_seconds"] == {}
  with pytest.raises(errors.UserError, match="100 sources, not 7"):
    search.run(SearchSettings(sources=7, out=made))
