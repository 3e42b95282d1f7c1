"""The command line: what is wrong, where, what to do; nothing left behind.

Failures of whole trainings are in training/test_loop.py.
"""

import dataclasses
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import types

import pytest

from nulls_jax import cli
from nulls_jax.data import tokenizer
from nulls_jax.data.preparation import dataset

GOOD = '{"source": "a", "text": "some text here"}\n'


def process(*arguments, **options):
  """Run a command as a real process."""
  return subprocess.run(
    [sys.executable, "-m", "nulls_jax.cli", *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=300,
    **options,
  )


# -- The command itself


def test_help_lists_the_commands(nulls):
  status, out, err = nulls("--help")
  assert (status, err) == (0, "")
  assert all(f"\n  {name} " in out for name in cli.COMMANDS)
  assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_describes_every_flag(name, nulls):
  status, out, err = nulls(name, "--help")
  assert (status, err) == (0, "")
  assert f"nulls {name}" in out
  for field in dataclasses.fields(cli.COMMANDS[name]):
    flag = {
      "run_dir": "--run",
      "settings": "--model.d-model",
      "mesh": "--mesh.tensor",
      "output": "OUTPUT",
      "receipt": "--receipt" if name == "verify" else "RECEIPT",
      "file": "FILE",
      "name": "encyclopedia|article|book",
    }.get(field.name, f"--{field.name.replace('_', '-')}")
    assert flag in out, field.name


def test_without_or_with_an_unknown_command(nulls, refused):
  status, out, err = nulls()
  assert (status, out) == (2, "") and "usage: nulls COMMAND" in err
  assert "no command 'trian'; there are demo, " in refused("trian")


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    (("train", "--data", "x"), "--run PATH"),
    (("train", "--data", "x", "--run", "y", "--nope", "1"), "--nope"),
    (("train", "--data=x", "--run=y", "--model.d-model=z"), "--model.d-model"),
    (
      ("train", "--data=x", "--run=y", "--sinks.kind=odd"),
      "Expected one of ('hashed'",
    ),
    (("train", "--data=x", "--run=y", "--training.seed=-1"), "does not fit 32"),
    (("train", "--data=x", "--run=y", "--config"), "--config"),
    (("prepare", "--out", "x"), "--documents"),
    (("generate", "--checkpoint", "x"), "--prompt"),
    (("erase", "--checkpoint", "x"), "--out"),
  ],
)
def test_wrong_flags(arguments, expected, nulls):
  status, out, err = nulls(*arguments)
  assert (status, out) == (2, "")
  assert expected in " ".join(err.split())
  assert "Traceback" not in err


# -- prepare


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    (None, r"in\.jsonl does not exist; give an existing file"),
    ("", r"in\.jsonl is empty; expected one JSON object a line with"),
    (GOOD + "some text\n", r"in\.jsonl:2: not JSON; .* character 1; expected"),
    (GOOD + GOOD[:20], r"in\.jsonl:2: not JSON; Unterminated string"),
    (GOOD + "[1]\n", r"in\.jsonl:2: not a JSON object but list; expected"),
    (GOOD + "\n" + GOOD, r"in\.jsonl:2: empty line; delete it"),
    ('{"source": "a"}\n', r'in\.jsonl:1: no text; add the field "text"'),
    (
      '{"source": "a", "text": " "}\n',
      r'in\.jsonl:1: text is empty; fill "text" or leave it out',
    ),
    (
      '{"source": "a", "text": 3}\n',
      r'in\.jsonl:1: text is not a string but int; mend "text"',
    ),
    (
      GOOD + '{"text": "b"}\n',
      r'in\.jsonl:2: no source; add the field "source", or .*--allow-no-source',
    ),
    (
      GOOD + json.dumps({"source": "k" * 4097, "text": "b"}),
      r"in\.jsonl:2: source key is longer than 4096 bytes; .* 4097; shorten",
    ),
    (
      GOOD.encode() + b'{"source": "\xff", "text": "b"}\n',
      r"in\.jsonl:2: not UTF-8; byte 13 of the line; convert",
    ),
    (
      GOOD + '{"source": "\\ud800", "text": "b"}\n',
      r"in\.jsonl:2: source key is not valid Unicode .*; mend the key",
    ),
  ],
)
def test_prepare_refuses_documents_by_line(
  content, expected, refused, tmp_path
):
  path = tmp_path / "in.jsonl"
  if isinstance(content, str):
    content = content.encode()
  if content is not None:
    path.write_bytes(content)
  before = set(tmp_path.iterdir())
  line = refused("prepare", "--documents", path, "--out", tmp_path / "out")
  assert re.search(expected, line), line
  assert set(tmp_path.iterdir()) == before


def test_prepare_refuses_a_damaged_gzip(refused, tmp_path):
  path = tmp_path / "in.jsonl.gz"
  path.write_bytes(gzip.compress(GOOD.encode() * 100)[:40])
  line = refused("prepare", "--documents", path, "--out", tmp_path / "out")
  assert re.search(r"in\.jsonl\.gz:1: damaged gzip .*; fetch or pack", line)
  assert list(tmp_path.iterdir()) == [path]


def test_prepare_refuses_other_files(tiny_run, refused, tmp_path):
  (tmp_path / "model").write_bytes(b"not a model")
  (tmp_path / "keys").write_text("person/Nobody\n")
  (tmp_path / "none").write_text("\n\n")
  documents = ("prepare", "--documents", tiny_run.documents)
  for flag, name, expected in (
    ("--tokenizer", "model", r"model is not a SentencePiece model; give a"),
    ("--tokenizer", "gone", r"gone does not exist; give the tokenizer\.model"),
    ("--exclude", "keys", r"1 excluded source keys .*Nobody'; correct the"),
    ("--exclude", "none", r"none holds no key; write one source key a line"),
    ("--exclude", "gone", r"gone does not exist; give an existing file"),
    ("--config", "gone.py", r"gone\.py: no such config file; see .* configs/"),
  ):
    line = refused(*documents, "--out", tmp_path / "out", flag, tmp_path / name)
    assert re.search(expected, line), line
    assert {path.name for path in tmp_path.iterdir()} == {
      "model",
      "keys",
      "none",
    }


def test_prepare_leaves_what_is_in_the_way(tiny_run, refused, tmp_path):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "mine.txt").write_text("mine")
  (tmp_path / "file").write_text("mine")
  before = sorted(tmp_path.rglob("*"))
  documents = ("prepare", "--documents", tiny_run.documents)
  for name in ("full", "file"):
    line = refused(*documents, "--out", tmp_path / name)
    assert f"{tmp_path / name} is in the way and no prepared dataset" in line
  line = refused(*documents, "--out", tiny_run.data, "--data.vocab-size=700")
  assert "holds a dataset prepared from other documents or settings" in line
  assert sorted(tmp_path.rglob("*")) == before


def test_prepare_counts_what_it_refuses(nulls, tmp_path):
  path = tmp_path / "in.jsonl"
  path.write_text(GOOD + "oops\n" + GOOD.replace('"a"', '"b"'))
  status, out, err = nulls(
    *("prepare", "--documents", path, "--out", tmp_path / "out"),
    *("--refuse-bad-lines", "--data.vocab-size=300"),
  )
  assert (status, err) == (0, "")
  assert "2 documents of 2 sources" in out and "1 refused, 0 excluded" in out
  manifest = dataset.Prepared.open(tmp_path / "out").manifest
  assert manifest["counts"]["refusals"] == {"not JSON": 1}
  # With a tokenizer that was not trained here, too.
  model = tmp_path / "out" / "tokenizer.model"
  status, out, err = nulls(
    *("prepare", "--documents", path, "--out", tmp_path / "again"),
    *("--refuse-bad-lines", "--tokenizer", model),
  )
  assert (status, err) == (0, "") and "tokenizer: 0 pieces retired" in out


# -- train: what is refused before a run exists


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    (
      ("--training.batch-size=12",),
      r"training.batch_size=12 in 1 .* gives 12 rows, which data x fsdp = 8 "
      r"does not divide; choose a multiple of 8",
    ),
    (
      ("--training.batch-size=24", "--training.accumulation=2"),
      r"batch_size=24 in 2 .* gives 12 rows, .*; choose a multiple of 16",
    ),
    (
      ("--mesh.tensor=4",),
      r"mesh.tensor=4 does not divide model.num_heads=2, .*sinks.strata=2; ch",
    ),
    (("--mesh.fsdp=3",), r"mesh.fsdp=3 does not divide model.d_model=16"),
    (("--mesh.data=3",), r"data=3 x .* does not make the 8 devices that are"),
    (("--mesh.data=0",), r"data=0 x .* does not make the 8 devices that are"),
    (("--data.row-length=512",), r"row_length is 512 in .* and 256 in the dat"),
    (("--data.tile=32",), r"data.tile is 32 in the config and 64 in the data"),
    (("--model.vocab-size=9",), r"vocab_size is 9 in the config and \d+ in"),
    (("--model.loss-chunk=100",), r"not a multiple of model.loss_chunk=100"),
    (
      ("--sinks.kind=dedicated", "--sinks.num-sources=3"),
      r"has 40 sources, the table rows for 3; leave sinks.num_sources and",
    ),
    (("--optimizer.warmup-fraction=0.999",), r"leaves no step after the warm"),
    # What one section refuses by itself comes without the parser's box.
    (
      ("--sinks.pool-size=1000",),
      r"= 2 \* 1 gives 500 blocks a stratum; choose",
    ),
    (
      ("--sinks.strata=3",),
      r"is not a multiple of strata \* block_size = 3 \*",
    ),
  ],
)
def test_train_refuses_before_it_writes(
  flags, expected, tiny_run, refused, tmp_path
):
  line = refused(
    *("train", "--data", tiny_run.data, "--run", tmp_path / "run"),
    *tiny_run.flags,
    *flags,
  )
  assert re.search(expected, line), line
  assert not (tmp_path / "run").exists()


def test_train_needs_a_prepared_dataset(tiny_run, refused, tmp_path):
  (tmp_path / "empty").mkdir()
  shutil.copytree(tiny_run.data, tmp_path / "cut")
  rows = tmp_path / "cut" / "rows-00000-of-00001.array_record"
  rows.write_bytes(rows.read_bytes()[:-1000])
  (tmp_path / "cut" / "ledger.sqlite").unlink()
  shutil.copytree(tiny_run.data, tmp_path / "old")
  (tmp_path / "old" / "manifest.json").write_text('{"format": "nulls 0"}')
  for name, expected in (
    ("none", r"none is no prepared dataset \(does not exist\); make one with"),
    ("empty", r"empty is no prepared dataset \(holds no manifest.json\); make"),
    ("cut", r"cut is damaged: ledger.sqlite is missing, rows-\S+ has \d+ by"),
    ("old", r"manifest.json is not a manifest of format .*; prepare again"),
  ):
    line = refused(
      *("train", "--data", tmp_path / name, "--run", tmp_path / "run"),
      *tiny_run.flags,
    )
    assert re.search(expected, line), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("start", [0, 300, 1 << 16])
def test_train_names_damaged_rows(start, tiny_run, refused, tmp_path):
  data, run = tmp_path / "data", tmp_path / "run"
  shutil.copytree(tiny_run.data, data)
  path = data / "rows-00000-of-00001.array_record"
  content = bytearray(path.read_bytes())
  content[start : start + 100] = bytes(100)
  path.write_bytes(content)
  line = refused("train", "--data", data, "--run", run, *tiny_run.flags)
  assert re.search(
    rf"dataset {data} is damaged: Corrupted .*; delete it and prepare again$",
    line,
  )
  assert list((run / "checkpoints").iterdir()) == []


def test_train_leaves_what_is_in_the_way(tiny_run, refused, tmp_path):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "mine.txt").write_text("mine")
  (tmp_path / "file").write_text("mine")
  before = sorted(tmp_path.rglob("*"))
  for name, expected in (
    ("full", "full: not empty and not a run; give another --run"),
    ("file", "file: not empty and not a run; give another --run"),
    ("file/run", r"run cannot be written: Not a directory; choose another pl"),
  ):
    line = refused(
      *("train", "--data", tiny_run.data, "--run", tmp_path / name),
      *tiny_run.flags,
    )
    assert re.search(expected, line), line
  assert sorted(tmp_path.rglob("*")) == before


def test_train_names_the_line_of_a_wrong_config(refused, tiny_run, tmp_path):
  path = tmp_path / "mine.py"
  path.write_text("import math\n\ndef get_config(:\n")
  line = refused(
    *("train", "--data", tiny_run.data, "--run", tmp_path / "run"),
    f"--config={path}",
  )
  assert line == f"nulls: {path}:3: invalid syntax; mend this file"


# -- generate


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    ((), r"give either --source KEY \(its sinks are active\) or --no-sinks"),
    (("--no-sinks", "--source=x"), r"give either --source KEY"),
    (
      ("--source=person/Nobody",),
      r"1 unknown in \S+ledger.sqlite: 'person/Nobody'.*; give keys as the",
    ),
    (("--source=",), r"source key is empty; give"),
    (("--source", "k" * 4097), r"longer than 4096 bytes; it has 4097; short"),
    (("--source", "a\udcff"), r"source key is not valid Unicode"),
    (
      ("--no-sinks", "--prompt", "many words " * 300),
      r"the prompt has \d+ tokens, and 32 more exceed the 256 that .*; shorten",
    ),
    (
      ("--no-sinks", "--max-new-tokens=256"),
      r"the prompt has \d tokens, and 256 more .* lower --max-new-tokens",
    ),
    (("--no-sinks", "--max-new-tokens=0"), r"--max-new-tokens 0 must be at"),
    (("--no-sinks", "--temperature=-1"), r"--temperature -1.0 at least 0"),
    (("--no-sinks", "--temperature=nan"), r"--temperature nan at least 0"),
    (("--no-sinks", "--prompt", "a\udcff"), r"prompt 'a.udcff' is not valid"),
  ],
)
def test_generate_refuses(flags, expected, tiny_run, refused):
  prompt = () if "--prompt" in flags else ("--prompt", "A person")
  line = refused("generate", "--checkpoint", tiny_run.path, *prompt, *flags)
  assert re.search(expected, line), line


def test_generate_and_erase_need_a_run(tiny_run, refused, tmp_path):
  half = tmp_path / "half"
  shutil.copytree(
    tiny_run.path, half, ignore=shutil.ignore_patterns("[0-9]*", "_*")
  )
  (half / "checkpoints" / "20.orbax-checkpoint-tmp").mkdir()
  for checkpoint, expected in (
    (tmp_path / "none", r"none(: holds no checkpoints/| does not exist); give"),
    (tiny_run.data, r"data(: holds no checkpoints/| is not a run directory)"),
    (half, r"(holds no finished checkpoint; train it|no checkpoint; let tra)"),
    (tiny_run.path / "checkpoints" / "7", r"step 7; (there are|it has) 40, 80"),
  ):
    generate = ("--prompt", "A", "--no-sinks")
    line = refused("generate", "--checkpoint", checkpoint, *generate)
    assert re.search(expected, line), line
    erase = ("--out", tmp_path / "out", "--source", tiny_run.keys[0])
    line = refused("erase", "--checkpoint", checkpoint, *erase)
    assert re.search(expected, line), line
  assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_generate_refuses_another_tokenizer(tiny_run, refused, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(tiny_run.path, run)
  model, _ = tokenizer.train_tokenizer(
    lambda: [(1, "other words"), (2, "other words")], vocab_size=300
  )
  (run / "tokenizer.model").write_bytes(model)
  line = refused("generate", "--checkpoint", run, "--prompt=A", "--no-sinks")
  assert re.search(
    r"run/tokenizer.model: not the tokenizer of \S+/120 \(fingerprint \w{12}, "
    r"expected \w{12}\); put the run's own file back$",
    line,
  )
  (run / "tokenizer.model").unlink()
  line = refused("generate", "--checkpoint", run, "--prompt=A", "--no-sinks")
  assert "run/tokenizer.model does not exist; give" in line


# Orbax leaves unfinished reads behind, which a real process keeps quiet.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["gone", "empty", "half", "flipped"])
def test_every_damaged_file_of_a_checkpoint_is_refused_or_harmless(
  how, tiny_run, nulls, tmp_path
):
  """Generate and erase: the right thing, or one line and nothing left."""
  run, out = tmp_path / "run", tmp_path / "out"
  shutil.copytree(tiny_run.path, run)
  step = run / "checkpoints" / "120"
  generate = ("--prompt", "A person", "--no-sinks", "--max-new-tokens=1")
  _, expected, _ = nulls("generate", "--checkpoint", run, *generate)
  refusals = {"generate": 0, "erase": 0}
  for path in sorted(entry for entry in step.rglob("*") if entry.is_file()):
    content = path.read_bytes()
    if how == "gone":
      path.unlink()
    else:
      middle = len(content) // 2
      flipped = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
      path.write_bytes(
        {
          "empty": b"",
          "half": content[:middle],
          "flipped": content[:middle] + flipped + content[middle + 8 :],
        }[how]
      )
    for command, flags in (
      ("generate", generate),
      ("erase", ("--out", out, "--source", tiny_run.keys[0])),
    ):
      status, stdout, err = nulls(command, "--checkpoint", run, *flags)
      if status == 0:
        assert err == "" and (command == "erase" or stdout == expected)
        shutil.rmtree(out, ignore_errors=True)
        continue
      assert (status, stdout, len(err.splitlines())) == (2, "", 1), err
      assert re.search(r"nulls: \S+/120.*(damaged|missing|not the tr)", err), (
        err
      )
      assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
      refusals[command] += 1
    path.write_bytes(content)
  # The manifest, the tree, the step's metadata, and the data at least.
  assert min(refusals.values()) >= 4


# -- erase


def test_erase_refuses(tiny_run, dense_run, refused, tmp_path):
  (tmp_path / "there").mkdir()
  (tmp_path / "empty").write_text("")
  (tmp_path / "long").write_text("person/a\n" + "k" * 4097)
  out = ("--out", tmp_path / "out")
  run = ("--checkpoint", tiny_run.path)
  for arguments, expected in (
    ((*run, *out), r"no source named; give --source KEY or --sources-file"),
    ((*run, *out, "--source=x"), r"1 unknown in \S+ledger.sqlite: 'x'; give"),
    ((*run, *out, "--source", "k" * 4097), r"longer than 4096 bytes; it has"),
    (
      (*run, *out, "--sources-file", tmp_path / "empty"),
      r"empty holds no key; write one source key a line",
    ),
    (
      (*run, *out, "--sources-file", tmp_path / "long"),
      r"long:2: source key is longer than 4096 bytes; it has 4097; shorten",
    ),
    (
      (*run, *out, "--sources-file", tmp_path / "gone"),
      r"gone does not exist; give an existing file",
    ),
    (
      (*run, "--out", tmp_path / "there", "--source", tiny_run.keys[0]),
      r"there exists; .* new directory only: give another one, or remove it",
    ),
    (
      ("--checkpoint", dense_run, *out, "--source", tiny_run.keys[0]),
      r"is a dense model .*there is nothing to erase; retrain without",
    ),
  ):
    line = refused("erase", *arguments)
    assert re.search(expected, line), line
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"there", "empty", "long"}


def test_erased_sources_cannot_be_used(
  tiny_run, dense_run, nulls, refused, tmp_path
):
  run, key = tmp_path / "run", tiny_run.keys[0]
  other = ("--source", tiny_run.keys[1])
  status, out, err = nulls(
    *("erase", "--checkpoint", tiny_run.path, "--out", run, "--source", key)
  )
  assert (status, err) == (0, "")
  assert re.match(rf"{run}: step 120, 1 source erased, 8 rows zero", out)
  prompt = ("--prompt", "A person", "--max-new-tokens=1")
  line = refused("generate", "--checkpoint", run, *prompt, "--source", key)
  assert re.search(rf"1 already erased: '{key}'; use the backbone", line)
  again = ("erase", "--checkpoint", run, "--out", tmp_path / "out")
  status, out, err = nulls(*again, "--source", key)
  assert (status, err) == (0, "")
  assert "1 of the sources had been erased before" in out
  # Its checksums are those of the new values: it loads.
  status, out, err = nulls("generate", "--checkpoint", run, *prompt, *other)
  assert (status, err) == (0, "") and out.startswith("A person")
  line = refused("generate", "--checkpoint", dense_run, *prompt, *other)
  assert re.search(r"run: a dense model has no sinks; leave the source", line)


# -- encyclopedia


def test_encyclopedia_refuses(refused, tmp_path):
  (tmp_path / "file").write_text("mine")
  for flags, expected in (
    (("--sources=3",), r"num_sources=3, .*: give at least 10, 0, 1 and 0"),
    (("--versions=0",), r"num_versions=0, .*: give at least 10, 0, 1 and 0"),
    (("--sources=100000000",), r"more people than there are names \(\d+\); l"),
  ):
    line = refused("encyclopedia", "--out", tmp_path / "out", *flags)
    assert re.search(expected, line), line
  line = refused("encyclopedia", "--out", tmp_path / "file")
  assert "file cannot be written: File exists; choose another place" in line
  assert (tmp_path / "file").read_text() == "mine"
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- Real processes


def test_exit_statuses_of_real_processes(tiny_run, tmp_path):
  environment = {**os.environ, **tiny_run.environment}
  done = process(
    *("generate", "--checkpoint", tiny_run.path, "--prompt", "A person"),
    *("--source", tiny_run.keys[0], "--max-new-tokens=4"),
    env=environment,
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("A person") and done.stdout.endswith("\n")

  shutil.copytree(tiny_run.path, tmp_path / "run")
  data = (tmp_path / "run/checkpoints/120/state/ocdbt.process_0/d").iterdir()
  max(data, key=lambda path: path.stat().st_size).write_bytes(b"")
  done = process(
    *("generate", "--checkpoint", tmp_path / "run"),
    *("--prompt=A", "--no-sinks"),
    env=environment,
  )
  assert (done.returncode, done.stdout) == (2, "")
  assert re.fullmatch(
    r"nulls: \S+/120 cannot be read, it is damaged .*\n", done.stderr
  )


def test_only_leftovers_of_orbax_are_hidden(monkeypatch):
  """It leaves reads unfinished, at random, when another one has failed."""

  def unraisable(error, filename=None):
    code = types.SimpleNamespace(co_filename=filename)
    of = types.SimpleNamespace(cr_code=code) if filename else None
    return types.SimpleNamespace(exc_value=error, object=of)

  shown = []
  monkeypatch.setattr(sys, "__unraisablehook__", shown.append)
  cli._hide_leftovers(unraisable(ValueError("x"), "/lib/orbax/a.py"))
  cli._hide_leftovers(unraisable(RuntimeError("Event loop is closed")))
  assert not shown
  others = [
    unraisable(ValueError("x"), "/lib/mine.py"),
    unraisable(RuntimeError("y")),
  ]
  for other in others:
    cli._hide_leftovers(other)
  assert shown == others


def test_an_error_is_one_line_whatever_is_said_at_the_end():
  """Orbax's reads that another failure cut short complain as Python ends."""
  code = """
import atexit, sys
from nulls_jax import cli
atexit.register(lambda: print("Exception ignored in: x", file=sys.stderr))
sys.argv[1:] = ["no-such-command"]
sys.exit(cli.main())
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
  )
  assert done.returncode == 2
  assert done.stderr.startswith("nulls: no command")
  assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(tmp_path):
  """`nulls encyclopedia --help | head -1` says nothing on stderr."""
  read, write = os.pipe()
  os.close(read)
  done = subprocess.run(
    [sys.executable, "-m", "nulls_jax.cli", "--help"],
    stdout=write,
    stderr=subprocess.PIPE,
    timeout=60,
  )
  os.close(write)
  assert (done.returncode, done.stderr) == (1, b"")
