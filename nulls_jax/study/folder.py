"""A study's folder: what it is of, and its prepared datasets.

Owns `study.json`, `data/` (all documents) and `data-retained/` (without the
sources to erase, with the same tokenizer).

Invariant: a folder holds one study; the same folder with other settings is
refused.
"""

import json
import pathlib
from typing import Any

from nulls_jax import config as run_config
from nulls_jax import errors, files
from nulls_jax.data.preparation import dataset, job, prepare
from nulls_jax.data.reading import inputs
from nulls_jax.study import corpus


def claim(
  directory: pathlib.Path,
  study: str,
  config: run_config.RunConfig,
  corpus_config: corpus.CorpusConfig,
) -> None:
  """Write `study.json`, or refuse a folder of other settings.

  What says how and where to run may change from call to call, and so may the
  number of models; what is computed may not.

  Args:
    directory: of the study.
    study: kind and version of the study, such as "nulls study 1".
    config: of every training.
    corpus_config: what the models are trained on.

  Raises:
    errors.UserError: the folder is another study's.
  """
  path = directory / "study.json"
  settings = {
    "format": study,
    "config": {
      section: fields
      for section, fields in run_config.to_dict(config).items()
      if section not in run_config.MOVABLE
    },
    "corpus": corpus_config.to_dict(),
  }
  if not path.exists():
    files.write_whole(path, to_json(settings))
    return
  before = json.loads(path.read_text())
  changed = _differences(before, json.loads(to_json(settings)))
  if changed:
    raise errors.UserError(
      f"{directory}: holds a study with other settings: "
      f"{errors.listing(changed)}; give another --out, or delete it"
    )


def prepare_all(
  directory: pathlib.Path,
  texts: corpus.Corpus,
  config: run_config.RunConfig,
) -> dict[str, int]:
  """Prepare all, and all but the erased; return the counts of all."""
  whole = directory / "data"
  manifest = prepare.prepare(job.Job(texts.documents, config.data), whole)
  prepare.prepare(
    job.Job(
      texts.documents,
      config.data,
      tokenizer_path=whole / dataset.TOKENIZER,
      exclude=frozenset(texts.erased_keys),
    ),
    directory / "data-retained",
  )
  return manifest["counts"]


def prepare_open(
  directory: pathlib.Path,
  texts: corpus.Corpus,
  config: run_config.RunConfig,
  share: float,
) -> str:
  """Prepare all with a share of the sources unnamed; return the folder's name.

  See `corpus.write_open`.
  """
  name = f"data-open-{share:g}"
  path = directory / "corpus" / f"open-{share:g}.jsonl"
  if not path.exists():
    corpus.write_open(texts, share, path)
  prepare.prepare(
    job.Job(
      path,
      config.data,
      tokenizer_path=directory / "data" / dataset.TOKENIZER,
      reading=inputs.Settings(allow_no_source=True),
    ),
    directory / name,
  )
  return name


def to_json(value: Any) -> str:
  """Return JSON as studies write it."""
  return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
  """List the leaves of nested dicts that differ, as `a.b: old -> new`."""
  if isinstance(before, dict) and isinstance(after, dict):
    return [
      line
      for name in sorted(before.keys() | after.keys())
      for line in _differences(
        before.get(name), after.get(name), f"{path}.{name}".lstrip(".")
      )
    ]
  return [] if before == after else [f"{path}: {before} -> {after}"]
