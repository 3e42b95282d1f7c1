"""`nulls mix`: what it refuses and says, and training on what it makes."""

import json
import math
import shutil

from nulls_jax.data import ledger_writing, mixture
from nulls_jax.data.preparation import dataset, job, work


def test_sets_that_do_not_fit_are_refused_in_one_line(
  sets, tmp_path, make_set, refused
):
  made = {
    "tokenizer": make_set(tmp_path / "tokenizer", ["x"], tokenizer=b"other"),
    "tile": make_set(tmp_path / "tile", ["x"], tile=16),
    "length": make_set(tmp_path / "length", ["x"], row_length=64),
    "classes": make_set(tmp_path / "classes", ["x"], class_tokens=100),
    "grown": make_set(tmp_path / "grown", ["x"]),
  }
  path = made["grown"].path / "manifest.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"extends": {}}))
  with ledger_writing.Writer.open(
    make_set(tmp_path / "erased", ["x", "y"]).path / "ledger.sqlite"
  ) as book:
    book.erase(["x"])
  size = (tmp_path / "erased" / "ledger.sqlite").stat().st_size
  path = tmp_path / "erased" / "manifest.json"
  manifest = json.loads(path.read_text())
  manifest["files"]["ledger.sqlite"] = size
  path.write_text(json.dumps(manifest))
  a = sets["a"].path
  places = [one.path for one in made.values()]
  line = refused(
    "mix", "--out", tmp_path / "out", "--data", a, *places, path.parent, a
  )
  for part in (
    f"tokenizer has another tokenizer than {a}; prepare it with --tokenizer",
    f"tile has data.tile 16 and {a} 8; prepare it with --data.tile 8",
    f"length has data.row_length 64 and {a} 32",
    f"classes has data.class_tokens 100 and {a} 0",
    "grown goes on from a run (--extend): its ledger counts what the run has "
    "seen, too; give all documents that the run is to learn from to one `nulls "
    "prepare --extend`",
    "erased has 1 erased sources; prepare its documents again",
    f"{a} stands twice",
  ):
    assert part in line
  assert not (tmp_path / "out").exists()


def test_bad_input_of_the_command(sets, tmp_path, refused, nulls):
  a, b = sets["a"].path, sets["b"].path
  out = ("mix", "--out", tmp_path / "out")
  visits = tmp_path / "visits.jsonl"

  def line(text, *arguments):
    visits.write_text(text)
    return refused(*out, *arguments, "--source-visits", visits)

  assert "no dataset is named" in refused(*out)
  assert "1 --weights for 2 --data" in refused(
    *out, "--data", a, b, "--weights", 1
  )
  assert "0 --visits for 1 --exact" in refused(*out, "--exact", a)
  assert "is -2.0; give a number above 0" in refused(
    *out, "--data", a, "--weights=-2"
  )
  assert "are 0; give at least 1" in refused(*out, "--exact", a, "--visits", 0)
  assert "in neither --data nor --exact" in refused(
    *out, "--data", a, "--no-source", b
  )
  assert "nowhere is no prepared dataset (does not exist)" in refused(
    *out, "--data", tmp_path / "nowhere"
  )
  assert "has no room" in refused(
    *out, "--data", a, "--exact", b, "--visits", 9, "--rows", 20
  )
  assert "unknown in these datasets: 'nobody'" in line(
    '{"source": "nobody", "visits": 2}\n', "--data", a
  )
  assert ":2: visits must be a whole number from 1" in line(
    '{"source": "a1", "visits": 2}\n{"source": "a2", "visits": 0}\n',
    "--data",
    a,
  )
  assert ":1: expected {" in line("a1 2\n", "--data", a)
  assert ":2: 'a1' stands in two lines" in line(
    '{"source": "a1", "visits": 2}\n' * 2, "--data", a
  )
  assert "is empty" in line("", "--data", a)
  assert not (tmp_path / "out").exists()
  assert nulls("mix", "--out", tmp_path / "mix", "--data", a)[0] == 0
  assert "is a mixture itself" in refused(*out, "--data", tmp_path / "mix")


def test_one_process_at_a_place(sets, tmp_path, refused, nulls):
  """And what a killed one left is in nobody's way."""
  command = ("mix", "--out", tmp_path / "mix", "--data", sets["a"].path)
  place = work.Work.beside(tmp_path / "mix")
  with place.locked():
    line = refused(*command)
  assert f"another process is at work in {place.directory}; wait" in line
  job.begin(place, {"identity": {}, "wanted": "mixture"}, {})
  (place.final / "ledger.sqlite").write_text("half of one")
  assert nulls(*command)[0] == 0
  assert [path.name for path in tmp_path.iterdir()] == ["mix"]
  mixture.open_dataset(tmp_path / "mix", verify=True)


def test_unfinished_preparations_stay(sets, tmp_path, refused):
  place = work.Work.beside(tmp_path / "mix")
  with place.locked():
    job.begin(place, {"identity": {"tile": 32}, "wanted": "dataset"}, {})
  before = sorted(tmp_path.rglob("*"))
  line = refused("mix", "--out", tmp_path / "mix", "--data", sets["a"].path)
  assert "holds an unfinished preparation with another result; start" in line
  assert sorted(tmp_path.rglob("*")) == before


def test_check_reads_a_mixture_and_its_sets(sets, tmp_path, nulls, refused):
  for name in "ab":
    shutil.copytree(sets[name].path, tmp_path / name)
  visits = tmp_path / "visits.jsonl"
  visits.write_text('{"source": "a3", "visits": 7}\n')
  out, a, b = (tmp_path / name for name in ("mix", "a", "b"))
  nulls("mix", "--out", out, "--data", a, b, "--source-visits", visits)
  check = ("prepare", "check", "--data", out)
  status, said, err = nulls(*check)
  assert (status, err) == (0, "")
  assert said.splitlines() == [
    f"{place}: {count} files are what the manifest says"
    for place, count in ((out, 6), (a, 3), (b, 3))
  ]
  names = sorted(path.name for path in out.iterdir())
  assert "visits-000007.array_record" in names
  for path in (*(out / name for name in names), b / dataset.ROWS):
    if path.name == dataset.MANIFEST:
      continue
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    mixture.open_dataset(out)  # Sizes are as they were.
    assert f"{path.name} has the SHA-256" in refused(*check)
    path.write_bytes(content)


def test_what_the_command_says(sets, tmp_path, nulls):
  visits = tmp_path / "visits.jsonl"
  visits.write_text('{"source": "a3", "visits": 7}\n')
  a, b, c = (sets[name].path for name in "abc")
  status, out, err = nulls(
    *("mix", "--out", tmp_path / "mix", "--data", a, c),
    *("--exact", b, "--visits", 2, "--no-source", c),
    *("--source-visits", visits),
  )
  assert (status, err) == (0, "")
  first, *lines = out.splitlines()
  opened = mixture.open_dataset(tmp_path / "mix")
  counts = opened.manifest["counts"]
  assert first.endswith(
    f"{counts['sources']} sources, {counts['rows']} rows, then it ends"
  )
  assert [line.split("  ")[-1] for line in lines] == [
    str(a),
    "(no source)",
    str(b),
    "sources seen 7 times",
  ]


def test_training_on_a_mixture(tiny_run, tmp_path, nulls, refused):
  """As a person would: prepare another corpus, mix, train, take it up."""
  documents = tmp_path / "documents.jsonl"
  documents.write_text(
    "".join(
      json.dumps({"source": f"book {n % 5}", "text": f"Volume {n}. " * 9})
      + "\n"
      for n in range(9)
    )
  )
  layout = ("--data.row-length=256", "--data.tile=64")
  model = tiny_run.data / "tokenizer.model"
  assert (
    nulls(
      *("prepare", "--documents", documents, "--out", tmp_path / "more"),
      *("--tokenizer", model, *layout),
    )[0]
    == 0
  )
  assert (
    nulls(
      *("mix", "--out", tmp_path / "mix", "--data", tiny_run.data),
      *("--exact", tmp_path / "more", "--visits", 3),
    )[0]
    == 0
  )
  mixed = mixture.open_dataset(tmp_path / "mix")
  assert mixed.manifest["counts"]["sources"] == 45
  steps = math.ceil(mixed.end / 8)
  flags = [
    flag for flag in tiny_run.flags if not flag.startswith("--training.num")
  ]
  train = ("train", "--data", tmp_path / "mix", "--run", tmp_path / "run")
  assert f"{steps:,} steps of 8, not {steps + 1:,}" in refused(
    *train, *flags, f"--training.num-steps={steps + 1}"
  )
  status, out, _ = nulls(*train, *flags)
  assert status == 0
  assert out.endswith(f"trained to step {steps}\n")
  # Taken up with the same sources in other shares: refused, not followed.
  mix = ("mix", "--out", tmp_path / "other", "--data", tiny_run.data)
  assert nulls(*mix, tmp_path / "more", "--rows", mixed.end)[0] == 0
  other = ("train", "--data", tmp_path / "other", "--run", tmp_path / "run")
  assert "other rows, or mixes them in another way" in refused(*other, *flags)
  status, out, _ = nulls(*train, *flags)
  assert (status, "already trained" in out) == (0, True)
  erase = ("erase", "--run", tmp_path / "run", "--out", tmp_path / "erased")
  assert nulls(*erase, "--source", "book 3")[0] == 0
  # What was trained on can be found by its words.
  index = ("--data", tmp_path / "mix")
  assert nulls("index", *index)[0] == 0
  status, out, _ = nulls(
    "find", "--ledger", tmp_path / "run", *index, "--quote", "Volume 7. Volume"
  )
  assert status == 0
  assert "book 2" in out
  assert "1 source found" in out
