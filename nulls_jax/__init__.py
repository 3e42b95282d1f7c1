"""Natively unlearnable language models in JAX.

Importing the package imports nothing heavy: the redaction tools must run
where no accelerator, no JAX and no model code is wanted.
"""

from nulls_jax.version import __version__

__all__ = ["__version__"]
