"""Text from a run, token by token, with a key-value cache.

Invariant: the next token's distribution is that of the whole text run
without a cache, up to rounding.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from nulls_jax import errors
from nulls_jax.inference.restore import Restored
from nulls_jax.model import attention, transformer
from nulls_jax.sinks import table

# Prompts are padded to multiples of this, so that few shapes are compiled.
_BUCKET = 32


def generate(
  run: Restored,
  prompt: str,
  route: np.ndarray,
  *,
  max_new_tokens: int = 64,
  temperature: float = 0.0,
  seed: int = 0,
) -> str:
  """Continue a prompt; return the new text only.

  Args:
    run: the loaded run.
    prompt: text; may be empty.
    route: `uint32 [2]` routing words from `Restored.routes`; they pass
      `Restored.admit` again.
    max_new_tokens: upper bound, at least 1; generation also ends at the end
      token.
    temperature: 0 takes the most probable token, otherwise samples.
    seed: key of the sampling.

  Raises:
    errors.UserError: prompt and new tokens exceed the rows that the model
      was trained on, an argument makes no sense, or the route is that of a
      source that is suspended, erased or unknown.
  """
  if max_new_tokens < 1 or not 0 <= temperature < math.inf:
    raise errors.UserError(
      f"--max-new-tokens {max_new_tokens} must be at least 1, and "
      f"--temperature {temperature} at least 0"
    )
  if not _is_unicode(prompt):
    raise errors.UserError(
      f"the prompt {prompt!a} is not valid Unicode; type it in UTF-8"
    )
  route = run.admit(route)
  tokens = [run.tokenizer.bos_id, *run.tokenizer.encode(prompt)]
  longest = run.config.data.row_length
  if len(tokens) + max_new_tokens > longest:
    raise errors.UserError(
      f"the prompt has {len(tokens)} tokens, and {max_new_tokens} more exceed "
      f"the {longest} that this model was trained on; shorten the prompt or "
      "lower --max-new-tokens"
    )
  padded = -(-len(tokens) // _BUCKET) * _BUCKET
  memory = -(-max(padded, len(tokens) + max_new_tokens) // _BUCKET) * _BUCKET
  cache = attention.empty_cache(run.config.model, 1, memory)
  prompt_1xL = np.zeros((1, padded), np.int32)
  prompt_1xL[0, : len(tokens)] = tokens
  sources_1x2 = jnp.asarray(route)[None]
  rows, params = _look_up(
    run.config.model, run.config.sinks, run.params, sources_1x2
  )
  step = functools.partial(
    _step,
    run.config.model,
    run.config.sinks,
    params,
    rows,
    sources_1x2=sources_1x2,
    temperature=temperature,
  )
  key = jax.random.key(seed)
  token, cache = step(cache, prompt_1xL, 0, len(tokens) - 1, key=key)
  new: list[int] = []
  while len(new) < max_new_tokens and int(token) != run.tokenizer.eos_id:
    new.append(int(token))
    position = len(tokens) + len(new) - 1
    token, cache = step(
      cache,
      jnp.reshape(token, (1, 1)),
      position,
      0,
      key=jax.random.fold_in(key, len(new)),
    )
  return run.tokenizer.decode_continuation(new)


def _is_unicode(text: str) -> bool:
  """Whether there is no lone surrogate, as of a byte that is not UTF-8."""
  return not any("\ud800" <= character <= "\udfff" for character in text)


def _look_up(config, sinks, params, sources_1x2):
  """Return the source's rows, once for the whole text, as `look_up` does."""
  rows = _rows(config, sinks, params, sources_1x2)
  return rows, params if rows is None else table.detach(params)[1]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _rows(config, sinks, params, sources_1x2):
  return transformer.look_up(config, sinks, params, sources_1x2[:, None])[0]


@functools.partial(
  jax.jit,
  static_argnums=(0, 1),
  donate_argnums=4,
  static_argnames="temperature",
)
def _step(
  config,
  sinks,
  params,
  rows,
  cache,
  tokens_1xL,
  start,
  last,
  *,
  sources_1x2,
  temperature,
  key,
):
  """Run new tokens and draw the one that follows token `last` of them."""
  logits_1xLxV, cache = transformer.decode(
    config, sinks, params, cache, tokens_1xL, start, sources_1x2, rows
  )
  logits_V = logits_1xLxV[0, last]
  if temperature == 0:
    return jnp.argmax(logits_V).astype(jnp.int32), cache
  token = jax.random.categorical(key, logits_V / temperature)
  return token.astype(jnp.int32), cache
