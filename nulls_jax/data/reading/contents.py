"""What the files of a corpus hold, as digests.

Owns the digest of a part of the input, made from those of its files. Who
reads some of the files knows theirs alone; put together, the digests of all
files give that of the part.

Invariant: a digest depends on the content and the names of files, never on
where they lie or on who read them.
"""

import concurrent.futures
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable

from nulls_jax import errors, files

# At a time: hashing leaves the interpreter free, and storage likes company.
_FILES_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class Content:
  """The files of a part, or some of them; JSON-able.

  Attributes:
    is_file: the part is one file, and its digest that file's own.
    sha256: hex digests by name, in the order of the files.
  """

  is_file: bool
  sha256: dict[str, str]

  def digest(self) -> str:
    """Return the hex SHA-256 of the part, of which all files are here."""
    if self.is_file:
      (value,) = self.sha256.values()
      return value
    text = "".join(f"{value}  {name}\n" for name, value in self.sha256.items())
    content = text.encode("utf-8", "surrogateescape")
    return hashlib.sha256(content).hexdigest()


def read(
  parts: Iterable[tuple[bool, Iterable[tuple[str, str]]]],
) -> list[Content]:
  """Read files from end to end, several at a time.

  Args:
    parts: whether each is one file, and names and paths of its files.

  Returns:
    What each part holds, in their order.

  Raises:
    errors.UserError: a file cannot be read.
  """
  wanted = [(is_file, dict(names)) for is_file, names in parts]
  paths = [path for _, names in wanted for path in names.values()]
  with concurrent.futures.ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
    digests = pool.map(_sha256, paths)
    return [
      Content(is_file, {name: next(digests) for name in names})
      for is_file, names in wanted
    ]


def _sha256(path: str) -> str:
  try:
    return files.sha256(pathlib.Path(path))
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be read ({error.strerror}); give an existing file"
    ) from None
