"""What the files of a corpus hold, as digests.

Owns the digest of a part of the input, made from those of its files. Who
reads some of the files knows theirs alone; put together, the digests of all
files give that of the part.

Invariant: a digest depends on the content and the names of files, never on
where they lie or on who read them.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable

from nulls_jax import errors, files


@dataclasses.dataclass(frozen=True)
class Content:
  """The files of a part, or some of them; JSON-able.

  Attributes:
    is_file: the part is one file, and its digest that file's own.
    sha256: hex digests by name, in the order of the files.
  """

  is_file: bool
  sha256: dict[str, str]

  @classmethod
  def read(cls, is_file: bool, names: Iterable[tuple[str, str]]) -> "Content":
    """Read files from end to end.

    Args:
      is_file: the part is one file.
      names: of the files, with their paths.

    Raises:
      errors.UserError: a file cannot be read.
    """
    return cls(is_file, {name: _sha256(path) for name, path in names})

  def digest(self) -> str:
    """Return the hex SHA-256 of the part, of which all files are here."""
    if self.is_file:
      (value,) = self.sha256.values()
      return value
    text = "".join(f"{value}  {name}\n" for name, value in self.sha256.items())
    content = text.encode("utf-8", "surrogateescape")
    return hashlib.sha256(content).hexdigest()


def _sha256(path: str) -> str:
  try:
    return files.sha256(pathlib.Path(path))
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be read ({error.strerror}); give an existing file"
    ) from None
