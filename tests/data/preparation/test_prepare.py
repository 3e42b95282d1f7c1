"""Preparation end to end: nothing lost, nothing half-written, all refused."""

import collections
import dataclasses
import gzip
import hashlib
import json
import resource
import shutil
import signal

import grain
import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import config as data_config
from nulls_jax.data import (
  encyclopedia,
  ledger,
  ledger_writing,
  packing,
  tokenizer,
)
from nulls_jax.data.preparation import dataset, job, prepare, rows
from nulls_jax.data.reading import inputs
from nulls_jax.sinks import assignment

CONFIG = data_config.DataConfig(row_length=96, tile=32, vocab_size=1024)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  directory = tmp_path_factory.mktemp("corpus")
  book = encyclopedia.Encyclopedia(
    seed=0, num_sources=60, num_held_out=2, num_versions=2
  )
  return book.write(directory)["documents"]


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
  directory = tmp_path_factory.mktemp("prepared") / "set"
  prepare.prepare(job.Job(corpus, CONFIG), directory)
  return dataset.Prepared.open(directory)


def _documents(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path, documents):
  path.write_text("".join(json.dumps(d) + "\n" for d in documents))
  return path


def _rows(prepared):
  source = grain.sources.ArrayRecordDataSource(
    [str(path) for path in prepared.row_files]
  )
  length = prepared.config.row_length
  return [packing.Row.from_bytes(source[i], length) for i in range(len(source))]


def _texts(prepared):
  """Return (key, text) of all documents, put together again from the rows."""
  model = tokenizer.Tokenizer.load(prepared.tokenizer_path)
  with ledger.Ledger.open(prepared.ledger_path) as book:
    keys = {source.index: source.key for source in book} | {0: ""}
  found = []
  for row in _rows(prepared):
    tiles = row.tokens.reshape(-1, prepared.config.tile)
    for number in range(1, int(row.tile_documents.max()) + 1):
      mine = row.tile_documents == number
      (source,) = set(row.tile_sources[mine].tolist())
      found.append((keys[source], model.decode(tiles[mine].ravel().tolist())))
  return found


def test_every_document_is_in_the_rows(corpus, prepared):
  counts = prepared.manifest["counts"]
  assert counts["documents_in"] == counts["documents_out"] == 120
  assert counts["documents_refused"] == counts["documents_excluded"] == 0
  assert counts["sources"] == 60
  assert counts["rows"] == len(_rows(prepared))
  parts = _texts(prepared)
  text_by_source = collections.defaultdict(str)
  for document in _documents(corpus):
    text_by_source[document["source"]] += document["text"]
  found = collections.defaultdict(int)
  for key, text in parts:
    found[key] += len(text)
    assert text.strip() in text_by_source[key]
  for key, text in text_by_source.items():
    # A space at a cut is the first character of a part, which drops it.
    assert len(text) - 2 <= found[key] <= len(text)


def test_ledger_and_tokens_agree(prepared):
  with ledger.Ledger.open(prepared.ledger_path) as book:
    sources = list(book)
  assert {source.num_documents for source in sources} == {2}
  tokens = collections.Counter()
  for row in _rows(prepared):
    for tile, source in zip(
      row.tokens.reshape(-1, 32), row.tile_sources.tolist(), strict=True
    ):
      tokens[source] += int((tile != 0).sum())
  assert tokens.pop(0, 0) == 0
  assert {s.index: s.num_tokens for s in sources} == dict(tokens)
  assert prepared.manifest["counts"]["tokens"] == tokens.total()


def test_many_blocks_hold_every_document(many_blocks):
  """Sources that come again in later blocks keep number and metadata."""
  found = dataset.Prepared.open(many_blocks.undisturbed)
  assert len(found.row_files) > 4
  documents = [
    json.loads(line)
    for line in many_blocks.path.read_text().splitlines()
    if line != "no JSON"
  ]
  firsts, counts = {}, collections.Counter()
  letters = collections.defaultdict(collections.Counter)
  for document in documents:
    firsts.setdefault(document["source"], document["year"])
    counts[document["source"]] += 1
    letters[document["source"]].update(document["text"].replace(" ", ""))
  in_rows = collections.defaultdict(collections.Counter)
  for key, text in _texts(found):
    in_rows[key].update(text.replace(" ", ""))
  assert in_rows == letters
  tokens = collections.Counter()
  for row in _rows(found):
    for tile, source in zip(
      row.tokens.reshape(-1, 32), row.tile_sources.tolist(), strict=True
    ):
      tokens[source] += int((tile != 0).sum())
  tokens.pop(0, None)
  with ledger.Ledger.open(found.ledger_path) as book:
    sources = list(book)
  assert [(s.key, s.metadata["year"]) for s in sources] == list(firsts.items())
  assert {s.key: s.num_documents for s in sources} == counts
  assert {s.index: s.num_tokens for s in sources} == tokens
  training = found.manifest["tokenizer_training"]
  assert (
    found.manifest["pieces_below_min_sources"] == training["byte_pieces_below"]
  )


def test_size_classes_follow_the_tokens(corpus, prepared, tmp_path):
  """With the tokenizer of the first dataset, of which only sizes differ."""
  with ledger.Ledger.open(prepared.ledger_path) as book:
    tokens = {source.key: source.num_tokens for source in book}
    assert not book.size_classes().any()
  assert prepared.manifest["sources_by_size_class"] == [60]
  assert "class_tokens" not in prepared.manifest["config"]
  long = sorted(tokens, key=tokens.get)[-1]
  texts = [one["text"] for one in _documents(corpus) if one["source"] == long]
  documents = [
    {"source": "short", "text": "ab"},
    {"source": "long", "text": " ".join(texts * 3)},
    {"source": "", "text": " ".join(texts * 9)},
  ]
  path = _write(tmp_path / "documents.jsonl", documents)
  config = dataclasses.replace(CONFIG, class_tokens=tokens[long])
  manifest = prepare.prepare(
    job.Job(
      path,
      config,
      tokenizer_path=prepared.tokenizer_path,
      reading=inputs.Settings(allow_no_source=True),
    ),
    tmp_path / "sizes",
  )
  opened = dataset.Prepared.open(tmp_path / "sizes")
  assert opened.config == config
  # About three times as many tokens: up to four times is class 2.
  assert manifest["sources_by_size_class"] == [1, 0, 1]
  with ledger.Ledger.open(opened.ledger_path) as book:
    assert book.size_classes().tolist() == [0, 0, 2]
    assert 2 * tokens[long] < book.find(["long"])[0].num_tokens


def test_classes_are_powers_of_two_and_end():
  config = data_config.DataConfig(class_tokens=100)
  tokens = np.array([0, 100, 101, 200, 201, 100 * 2**14, 100 * 2**14 + 1])
  assert config.size_classes(tokens).tolist() == [0, 0, 1, 1, 2, 14, 15]
  assert config.size_classes(np.array([2**62])).tolist() == [15]
  large = data_config.DataConfig(class_tokens=2**61)
  assert large.size_classes(tokens).tolist() == [0] * 7
  assert CONFIG.size_classes(tokens).tolist() == [0] * 7
  with pytest.raises(errors.UserError, match="class_tokens is -1; give the"):
    data_config.DataConfig(class_tokens=-1)


def test_manifest_describes_the_files(prepared):
  manifest = prepared.manifest
  rows = prepared.row_files[0].read_bytes()
  assert manifest["rows_sha256"] == hashlib.sha256(rows).hexdigest()
  model = tokenizer.Tokenizer.load(prepared.tokenizer_path)
  assert manifest["tokenizer_fingerprint"] == model.fingerprint
  assert manifest["vocab_size"] == model.vocab_size <= 1024
  assert manifest["config"]["tile"] == 32
  assert prepared.config == CONFIG
  assert sorted(p.name for p in prepared.directory.iterdir()) == [
    "ledger.sqlite",
    "manifest.json",
    "rows-00000-of-00001.array_record",
    "tokenizer.model",
  ]
  assert (
    max(int(row.tokens.max()) for row in _rows(prepared))
    < (manifest["vocab_size"])
  )


def test_no_normal_piece_has_one_source(prepared):
  below = prepared.manifest["pieces_below_min_sources"]
  training = prepared.manifest["tokenizer_training"]
  assert below == training["byte_pieces_below"]


def test_long_documents_are_cut(tmp_path):
  text = " ".join(f"word{i % 50}" for i in range(400))
  path = _write(
    tmp_path / "d.jsonl", [{"source": s, "text": text} for s in "ab"]
  )
  config = data_config.DataConfig(row_length=64, tile=16, vocab_size=320)
  manifest = prepare.prepare(job.Job(path, config), tmp_path / "out")
  found = dataset.Prepared.open(tmp_path / "out")
  pieces = len(tokenizer.Tokenizer.load(found.tokenizer_path).encode(text))
  parts = -(-(pieces + 1) // 63)
  assert manifest["counts"]["tokens"] == 2 * (pieces + 1 + parts)
  assert parts > 3


def test_reproducible_and_reused(corpus, prepared, tmp_path):
  again = prepare.prepare(job.Job(corpus, CONFIG), tmp_path / "again")
  assert again["rows_sha256"] == prepared.manifest["rows_sha256"]
  seen = []
  reused = prepare.prepare(
    job.Job(corpus, CONFIG),
    tmp_path / "again",
    progress=lambda *a: seen.append(a),
  )
  assert reused == again
  assert not seen, "nothing was read again"


def test_reuse_goes_by_content_not_name(corpus, prepared, tmp_path):
  copy = shutil.copy(corpus, tmp_path / "copy.jsonl")
  manifest = prepare.prepare(job.Job(copy, CONFIG), prepared.directory)
  assert manifest == prepared.manifest


@pytest.mark.parametrize("what", ["config", "text", "exclude", "tokenizer"])
def test_other_inputs_are_not_overwritten(corpus, prepared, tmp_path, what):
  documents = _documents(corpus)
  path, config, arguments = corpus, CONFIG, {}
  if what == "config":
    config = data_config.DataConfig(row_length=96, tile=48, vocab_size=1024)
  elif what == "text":
    path = _write(tmp_path / "other.jsonl", documents[:-1])
  elif what == "exclude":
    arguments = {"exclude": {documents[0]["source"]}}
  else:
    arguments = {"tokenizer_path": prepared.tokenizer_path}
  before = (prepared.directory / "manifest.json").read_bytes()
  with pytest.raises(errors.UserError, match="prepared from other documents"):
    prepare.prepare(job.Job(path, config, **arguments), prepared.directory)
  assert (prepared.directory / "manifest.json").read_bytes() == before


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, prepared):
  """What preparation reads of a run; one of its sources was erased."""
  path = tmp_path_factory.mktemp("run") / "run"
  path.mkdir()
  (path / "config.json").write_text("{}")
  shutil.copyfile(prepared.tokenizer_path, path / "tokenizer.model")
  with ledger_writing.Writer.copy(
    path / "ledger.sqlite", prepared.ledger_path
  ) as book:
    book.set_size_classes(np.arange(61) % 3)
    book.erase([book.find_by_id(int(book.ids()[5])).key])
  return path


def test_a_dataset_goes_on_where_a_run_ends(
  corpus, prepared, run_dir, tmp_path
):
  documents = _documents(corpus)
  with ledger.Ledger.open(prepared.ledger_path) as book:
    erased, taught = (
      book.find_by_id(int(book.ids()[index])).key for index in (5, 9)
    )
  one = next(each for each in documents if each["source"] == taught)
  text = one["text"]
  path = _write(
    tmp_path / "more.jsonl",
    [
      {"source": "new, long", "text": " ".join([text] * 4), "site": "x"},
      {"source": erased, "text": text},
      {"source": taught, "text": text, "site": "another"},
      {"source": "new, short", "text": text},
    ],
  )
  with ledger.Ledger.open(run_dir / "ledger.sqlite") as book:
    old, fingerprint = list(book), book.fingerprint()
  config = dataclasses.replace(CONFIG, class_tokens=old[8].num_tokens)
  grown, out = job.Job(path, config, extends=run_dir), tmp_path / "out"
  manifest = prepare.prepare(grown, out)
  assert prepare.prepare(grown, out) == manifest
  other = job.Job(path, config, tokenizer_path=prepared.tokenizer_path)
  with pytest.raises(errors.UserError, match="prepared from other documents"):
    prepare.prepare(other, out)
  assert (
    manifest["tokenizer_fingerprint"]
    == (prepared.manifest["tokenizer_fingerprint"])
  )
  counts = manifest["counts"]
  assert (counts["documents_in"], counts["documents_out"]) == (4, 3)
  assert counts["refusals"] == {"its source was erased from the run": 1}
  (said,) = counts["first_refusals"].values()
  assert said.startswith(f"{path}:2: ") and erased not in said
  assert manifest["extends"] == {
    "ledger_fingerprint": fingerprint,
    "sources": 60,
    "sources_erased": 1,
    "sources_new": 2,
    "sources_with_documents": 3,
  }
  found = dataset.Prepared.open(tmp_path / "out")
  assert {key for key, _ in _texts(found)} == {
    taught,
    "new, long",
    "new, short",
  }
  with ledger.Ledger.open(found.ledger_path) as book:
    sources = list(book)
  tokens = sources[61].num_tokens
  assert sources[:8] + sources[9:60] == old[:8] + old[9:60]
  assert sources[8] == dataclasses.replace(
    old[8],
    num_documents=old[8].num_documents + 1,
    num_tokens=old[8].num_tokens + tokens,
  )
  assert counts["tokens"] == 2 * tokens + sources[60].num_tokens
  assert [(one.index, one.key) for one in sources[60:]] == [
    (61, "new, long"),
    (62, "new, short"),
  ]
  assert [one.size_class for one in sources[60:]] == [1, 0]
  assert manifest["sources_by_size_class"] == [21, 21, 20]


def test_a_run_goes_on_with_its_own_tokenizer(
  corpus, prepared, run_dir, tmp_path
):
  for arguments, match in (
    ({"tokenizer_path": prepared.tokenizer_path}, "leave --tokenizer out"),
    ({"extends": prepared.directory}, "is no run .it holds no config.json"),
  ):
    with pytest.raises(errors.UserError, match=match):
      prepare.prepare(
        job.Job(corpus, CONFIG, **{"extends": run_dir, **arguments}),
        tmp_path / "out",
      )


def test_excluded_sources_are_nowhere(corpus, prepared, tmp_path):
  documents = _documents(corpus)
  gone = {documents[0]["source"], documents[-1]["source"]}
  manifest = prepare.prepare(
    job.Job(
      corpus, CONFIG, tokenizer_path=prepared.tokenizer_path, exclude=gone
    ),
    tmp_path / "out",
  )
  counts = manifest["counts"]
  assert counts["documents_excluded"] == 4
  assert counts["documents_in"] == 120
  assert counts["documents_out"] == 116
  assert counts["sources"] == 58
  assert (
    manifest["tokenizer_fingerprint"]
    == (prepared.manifest["tokenizer_fingerprint"])
  )
  assert manifest["tokenizer_training"] is None
  found = dataset.Prepared.open(tmp_path / "out")
  assert not gone & {key for key, _ in _texts(found)}
  for path in (tmp_path / "out").iterdir():
    for key in gone:
      assert key.encode() not in path.read_bytes(), path


def test_unknown_exclusions(corpus, tmp_path):
  with pytest.raises(errors.UserError, match=r"2 excluded.*'nobody', 'noone'"):
    prepare.prepare(
      job.Job(corpus, CONFIG, exclude={"nobody", "noone"}), tmp_path / "out"
    )
  assert not list(tmp_path.iterdir())


def test_bad_line_stops_and_leaves_nothing(corpus, tmp_path):
  documents = _documents(corpus)
  documents[50]["text"] = ""
  path = _write(tmp_path / "bad.jsonl", documents)
  with pytest.raises(errors.UserError, match=r"bad\.jsonl:51: text is empty"):
    prepare.prepare(job.Job(path, CONFIG), tmp_path / "out")
  assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]


def test_refused_lines_are_counted(corpus, tmp_path):
  lines = corpus.read_text().splitlines()
  lines[3:3] = ["{", '{"source": "a"}', '{"source": "b"}']
  path = tmp_path / "bad.jsonl"
  path.write_text("\n".join(lines))
  manifest = prepare.prepare(
    job.Job(path, CONFIG, on_error="refuse"), tmp_path / "out"
  )
  counts = manifest["counts"]
  assert counts["documents_in"] == 123
  assert counts["documents_out"] == 120
  assert counts["documents_refused"] == 3
  assert counts["refusals"] == {"not JSON": 1, "no text": 2}
  assert "bad.jsonl:4:" in counts["first_refusals"]["not JSON"]


def test_several_files_and_gzip(corpus, prepared, tmp_path):
  lines = corpus.read_text().splitlines(keepends=True)
  first = tmp_path / "a.jsonl"
  first.write_text("".join(lines[:70]))
  second = tmp_path / "b.jsonl.gz"
  second.write_bytes(gzip.compress("".join(lines[70:]).encode()))
  manifest = prepare.prepare(job.Job([first, second], CONFIG), tmp_path / "out")
  assert manifest["rows_sha256"] == prepared.manifest["rows_sha256"]


def test_text_of_no_source(tmp_path, corpus):
  documents = [*_documents(corpus), {"source": None, "text": "Free for all."}]
  path = _write(tmp_path / "d.jsonl", documents)
  with pytest.raises(errors.UserError, match=r"d\.jsonl:121: no source"):
    prepare.prepare(job.Job(path, CONFIG), tmp_path / "out")
  manifest = prepare.prepare(
    job.Job(path, CONFIG, reading=inputs.Settings(allow_no_source=True)),
    tmp_path / "out",
  )
  assert manifest["counts"]["sources"] == 60
  found = dataset.Prepared.open(tmp_path / "out")
  assert ("", "Free for all.") in _texts(found)


def test_index_follows_the_id_not_the_order_of_ids(prepared, corpus):
  """The look-up by sorted ids must give the ledger's own index."""
  with ledger.Ledger.open(prepared.ledger_path) as book:
    by_key = {source.key: source for source in book}
  firsts = dict.fromkeys(d["source"] for d in _documents(corpus))
  assert [by_key[key].index for key in firsts] == list(range(1, 61))
  ids = [assignment.source_id(key) for key in firsts]
  assert ids != sorted(ids)


def test_nothing_left(tmp_path):
  path = _write(tmp_path / "d.jsonl", [{"source": "a", "text": "t"}])
  with pytest.raises(
    errors.UserError, match=r"no document is left.*1 excluded"
  ):
    prepare.prepare(job.Job(path, CONFIG, exclude={"a"}), tmp_path / "out")
  with pytest.raises(errors.UserError, match="neither 'stop' nor 'refuse'"):
    prepare.prepare(job.Job(path, CONFIG, on_error="skip"), tmp_path / "out")


def test_missing_and_empty_documents(tmp_path):
  with pytest.raises(errors.UserError, match=r"absent\.jsonl does not exist"):
    prepare.prepare(
      job.Job(tmp_path / "absent.jsonl", CONFIG), tmp_path / "out"
    )
  empty = _write(tmp_path / "empty.jsonl", [])
  with pytest.raises(errors.UserError, match=r"empty\.jsonl is empty"):
    prepare.prepare(job.Job(empty, CONFIG), tmp_path / "out")


def test_something_else_is_in_the_way(corpus, tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "thesis.txt").write_text("mine")
  with pytest.raises(errors.UserError, match="in the way and no prepared"):
    prepare.prepare(job.Job(corpus, CONFIG), tmp_path / "out")
  assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
  with pytest.raises(errors.UserError, match=r"in the way|cannot be written"):
    prepare.prepare(job.Job(corpus, CONFIG), tmp_path / "out" / "thesis.txt")
  with pytest.raises(errors.UserError, match="cannot be written"):
    prepare.prepare(
      job.Job(corpus, CONFIG), tmp_path / "out" / "thesis.txt" / "x"
    )


def test_empty_directory_and_stale_partial_are_fine(corpus, tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out.partial").mkdir()
  (tmp_path / "out.partial" / "ledger.sqlite").write_text("half")
  prepare.prepare(job.Job(corpus, CONFIG), tmp_path / "out")
  assert [p.name for p in tmp_path.iterdir()] == ["out"]
  dataset.Prepared.open(tmp_path / "out")


def test_open_what_is_no_dataset(tmp_path):
  with pytest.raises(errors.UserError, match="does not exist"):
    dataset.Prepared.open(tmp_path / "absent")
  with pytest.raises(errors.UserError, match=r"holds no manifest\.json"):
    dataset.Prepared.open(tmp_path)
  (tmp_path / "manifest.json").write_text("{")
  with pytest.raises(errors.UserError, match="is not JSON"):
    dataset.Prepared.open(tmp_path)
  (tmp_path / "manifest.json").write_text('{"format": "other 1"}')
  with pytest.raises(errors.UserError, match="not a manifest of format"):
    dataset.Prepared.open(tmp_path)


def test_open_lists_all_damage(prepared, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(prepared.directory, copy)
  (copy / "tokenizer.model").unlink()
  rows = copy / "rows-00000-of-00001.array_record"
  rows.write_bytes(rows.read_bytes()[:-1])
  with pytest.raises(
    errors.UserError,
    match=r"rows.* has \d+ bytes, .*tokenizer\.model is missing",
  ):
    dataset.Prepared.open(copy)


def test_write_failure_is_the_machines(corpus, tmp_path):
  """A real failing write: the kernel refuses files beyond a limit."""
  old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old_limit[1]))
  try:
    with pytest.raises(errors.MachineError, match=r"writing .*out"):
      prepare.prepare(job.Job(corpus, CONFIG), tmp_path / "out")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
    signal.signal(signal.SIGXFSZ, old_handler)
  # What was done stays, and the same call goes on with it.
  assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
  prepare.prepare(job.Job(corpus, CONFIG), tmp_path / "out")
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_full_disk_while_rows_are_written(corpus):
  with pytest.raises(errors.MachineError, match="No space left on device"):
    rows.write_records("/dev/full", [b"x" * 1000] * 1000)
