"""Which reader a path asks for, and whether it fits the settings.

Owns the list of formats and of `--documents` spellings. Reads no text.

Invariant: every file below a given folder is in exactly one part, except
those whose name, or a folder's name, begins with a dot.
"""

import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from nulls_jax import errors
from nulls_jax.data.reading import (
  dataset,
  jsonl,
  keys,
  lines,
  parquet,
  parts,
  texts,
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


def find(path: str | os.PathLike, data_dir: str | None) -> list[parts.Part]:
  """Return the parts that a path names.

  - `tfds:NAME[/CONFIG][:VERSION][@SPLIT]`: a TFDS dataset on the disk.
  - A folder: every file below it, in the order of their names. Those ending
    in .jsonl, .json, .ndjson or .parquet are read as that; all others are
    texts, a document each. What begins with a dot is left alone.
  - A file ending in .parquet, .txt or .md: that. Any other file: JSON Lines.

  Texts and JSON Lines may end in .gz or .zst besides.

  Raises:
    errors.UserError: see `inputs.open`.
  """
  text = os.fspath(path)
  scheme = _SCHEME.match(text)
  if scheme and not os.path.lexists(text):
    if scheme[1] != "tfds":
      raise errors.UserError(
        f"{text}: unknown scheme {scheme[1]!r}; give a file, a folder or "
        "tfds:NAME (copy what lies elsewhere to a disk first)"
      )
    return [dataset.Dataset.open(text, data_dir)]
  path = pathlib.Path(path)
  if not path.is_dir():
    _check_readable(path)
    if _is_text(path, in_folder=False):
      return [texts.Texts.open(path.parent, [path.name])]
    return [_open_file(path, path.name)]
  return _folder(path)


def rule(sources: str | None, part: parts.Part) -> keys.Rule:
  """Return the rule for the sources of a part."""
  if sources is not None:
    return keys.parse(sources)
  if isinstance(part, texts.Texts):
    return keys.Path()
  return keys.Field(keys.DEFAULT_FIELD)


def check(
  found: Sequence[parts.Part],
  text_field: str,
  sources: str | None,
  allow_no_source: bool,
) -> None:
  """Raise `errors.UserError` if settings and parts do not fit.

  The default source field may be absent where no source is needed.
  """
  optional = sources is None and allow_no_source
  named: list[tuple[keys.Path, parts.Part]] = []
  for part in found:
    needed = rule(sources, part)
    part.check_fields(text_field, () if optional else needed.names)
    if not isinstance(needed, keys.Path):
      continue
    if isinstance(part, dataset.Dataset):
      raise errors.UserError(
        f"--sources {sources}: records of {part.path} have no path; name a "
        "field, --sources field:NAME"
      )
    named.append((needed, part))
  _check_once(found)
  _check_distinct(named)


def _check_once(found: Sequence[parts.Part]) -> None:
  """A file that is given twice would count twice."""
  seen: set[str] = set()
  for part in found if len(found) > 1 else ():
    for _, path in part.files():
      place = os.path.abspath(path)
      if place in seen:
        raise errors.UserError(f"{path} is given twice; name it once")
      seen.add(place)


def _check_distinct(named: Sequence[tuple[keys.Path, parts.Part]]) -> None:
  """Two given folders may hold the same names; those are not one source."""
  roots: dict[str, str] = {}
  for needed, part in named if len(named) > 1 else ():
    for name, path in part.files():
      root, key = path.removesuffix(name), needed.find({}, name)
      if key and roots.setdefault(key, root) != root:
        raise errors.UserError(
          f"{key!r} would be one source of files below {roots[key]} and below "
          f"{root}; give the folder that holds both"
        )


def _is_text(path: pathlib.Path, in_folder: bool) -> bool:
  inner = path.with_suffix("") if lines.is_packed(path) else path
  if in_folder:
    return inner.suffix not in (*jsonl.SUFFIXES, ".parquet")
  return inner.suffix in texts.SUFFIXES


def _open_file(path: pathlib.Path, name: str) -> parts.Part:
  if path.suffix == ".parquet":
    return parquet.Parquet.open(path, name)
  return jsonl.JsonLines.open(path, name)


def _folder(root: pathlib.Path) -> list[parts.Part]:
  names = sorted(_walk(root))
  if not names:
    raise errors.UserError(f"{root} holds no file; give a folder of documents")
  plain = [name for name in names if _is_text(root / name, in_folder=True)]
  found = [
    _open_file(root / name, name)
    for name in names
    if not _is_text(root / name, in_folder=True)
  ]
  return [*found, texts.Texts.open(root, plain)] if plain else found


def _walk(root: pathlib.Path) -> Iterator[str]:
  """Yield the files below a folder, with "/"; raises on what it may not."""
  pending = [""]
  while pending:
    folder = pending.pop()
    try:
      with os.scandir(root / folder) as entries:
        for entry in entries:
          if entry.name.startswith("."):
            continue
          name = f"{folder}/{entry.name}" if folder else entry.name
          if not entry.is_dir():
            _check_readable(root / name)
            yield name
          elif entry.is_symlink():
            raise errors.UserError(
              f"{root / name} is a link to a folder and might lead in a "
              "circle; give that folder itself"
            )
          else:
            pending.append(name)
    except PermissionError:
      raise errors.UserError(
        f"{root / folder} may not be read; change its permissions"
      ) from None


def _check_readable(path: pathlib.Path) -> None:
  if not path.exists():
    raise errors.UserError(f"{path} does not exist; give an existing file")
  if not path.is_file():
    raise errors.UserError(
      f"{path} is neither file nor folder; write its content to a file"
    )
  if not os.access(path, os.R_OK):
    raise errors.UserError(f"{path} may not be read; change its permissions")
