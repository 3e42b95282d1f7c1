"""Packages that only some corpora need.

Owns the extra `corpora`: what it brings is imported here, when it is first
needed, and missing packages become one clear line.
"""

import importlib
import importlib.metadata
import sys
import types

from nulls_jax import errors

INSTALL = "pip install 'nulls_jax[corpora]'"


def load(module: str, wanted_by: str) -> types.ModuleType:
  """Import an optional module.

  Raises:
    errors.UserError: it is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise errors.UserError(
      f"{wanted_by} needs the package {error.name}, which is not installed; "
      f"run: {INSTALL}"
    ) from None


def zstd(wanted_by: str) -> types.ModuleType:
  """Import Zstandard: Python's own from 3.14 on, its backport before."""
  if sys.version_info >= (3, 14):
    return load("compression.zstd", wanted_by)
  return load("backports.zstd", wanted_by)


def version(package: str) -> str:
  """Return the version of an installed package.

  Raises:
    errors.UserError: it is not installed.
  """
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    raise errors.UserError(
      f"the package {package} is not installed; run: {INSTALL}"
    ) from None
