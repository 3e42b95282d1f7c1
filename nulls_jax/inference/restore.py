"""A trained run, loaded for use: parameters, tokenizer, ledger, routing.

Invariant: a source that was erased cannot be activated through a `Restored`
run, and an unknown one is refused instead of running without sinks: a wrong
key would look exactly like deletion.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable

import jax
import numpy as np

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.data import ledger, tokenizer
from nulls_jax.model import transformer
from nulls_jax.training import checkpoint


@dataclasses.dataclass(frozen=True)
class Restored:
  """A run at one step.

  Attributes:
    directory: the run directory.
    step: completed updates.
    config: the resolved settings.
    params: the parameter tree, on this process's first device.
    tokenizer: the run's own.
  """

  directory: pathlib.Path
  step: int
  config: run_config.RunConfig
  params: dict
  tokenizer: tokenizer.Tokenizer

  def routes(self, keys: Iterable[str | None]) -> np.ndarray:
    """Return routing words `uint32 [n, 2]`; None is backbone only.

    Raises:
      errors.UserError: a key is unknown or its source was erased; or the
        model has no sinks and a key was given.
    """
    keys = list(keys)
    named = [key for key in keys if key is not None]
    words = np.zeros((len(keys), 2), np.uint32)
    if not named:
      return words
    if self.config.sinks.kind == "none":
      raise errors.UserError(
        f"{self.directory}: a dense model has no sinks; leave the source out"
      )
    with ledger.Ledger.open(self.directory / "ledger.sqlite") as sources:
      found = sources.find(sorted(set(named)))
      table = sources.routing_table(self.config.sinks)
    index = {source.key: source.index for source in found}
    for place, key in enumerate(keys):
      if key is not None:
        words[place] = table[index[key]]
    return words


def restore(run_dir: str | os.PathLike, step: int | None = None) -> Restored:
  """Load a run's parameters onto the first device.

  Args:
    run_dir: a run directory, trained or erased.
    step: defaults to the newest.

  Raises:
    errors.UserError: no such run or step, damaged files, or a tokenizer that
      is not the checkpoint's.
  """
  run_dir = pathlib.Path(run_dir)
  step = checkpoint.newest(run_dir, step)
  found = checkpoint.read_metadata(run_dir, step)
  where = f"{run_dir}/{checkpoint.FOLDER}/{step}"
  config = run_config.from_dict(found["config"], where)
  model = tokenizer.Tokenizer.load(run_dir / "tokenizer.model")
  if model.fingerprint != found["tokenizer_fingerprint"]:
    raise errors.UserError(
      f"{run_dir}/tokenizer.model: not the tokenizer of {where} (fingerprint "
      f"{model.fingerprint[:12]}, expected "
      f"{found['tokenizer_fingerprint'][:12]}); put the run's own file back"
    )
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  abstract = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    jax.eval_shape(
      functools.partial(transformer.init, config.model, config.sinks),
      jax.random.key(0),
    ),
  )
  params = checkpoint.load_params(run_dir, step, abstract)
  return Restored(run_dir, step, config, params, model)
