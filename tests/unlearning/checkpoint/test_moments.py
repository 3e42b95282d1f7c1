"""What an erasure does to every optimiser's state, and what it refuses."""

import fractions
import random

import jax
import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import arrays, moments
from nulls_jax.unlearning.erasure import erase

# Kind of assignment, optimiser, and the arrays that must be edited.
STATES = {
  "groups": (
    "hashed",
    {
      "params",
      "opt_state.inner_states.sinks.inner_state.0.mu",
      "opt_state.inner_states.sinks.inner_state.0.nu",
    },
  ),
  "masked": (
    "hashed",
    {
      "params",
      "opt_state.0.inner_state.0.mu",
      "opt_state.0.inner_state.0.nu",
    },
  ),
  "nested": (
    "dedicated",
    {
      "params",
      "opt_state.acc_grads",
      "opt_state.inner_opt_state.0.trace",
      "opt_state.inner_opt_state.1.ema",
      "opt_state.inner_opt_state.2.0.mu",
      "opt_state.inner_opt_state.2.0.nu",
    },
  ),
  # Row-sparse training: the updates of each row say how often it was seen.
  "rows": (
    "dedicated",
    {
      "params",
      "opt_state.rows.mu",
      "opt_state.rows.nu",
      "opt_state.rows.count",
    },
  ),
  "unfactored": ("hashed", {"params", "opt_state.0.v"}),
  "factored": (
    "hashed",
    {
      "params",
      "opt_state.0.v_row",
      "opt_state.0.v_col",
      "opt_state.4.ema",
    },
  ),
}


def mask_of(config, keys, indices, num_layers=2):
  """Mark the rows of sources: `bool [N, G, R]`."""
  words = assignment.routing_words(
    config,
    np.asarray([assignment.source_id(key) for key in keys], np.uint64),
    np.asarray(indices),
  )
  mask = np.zeros((num_layers, config.strata, config.rows_per_stratum), bool)
  for layer in range(num_layers):
    for source in assignment.rows(config, words, layer):
      for stratum, rows in enumerate(source):
        mask[layer, stratum, rows] = True
  return mask


def flat(state):
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
  }


def check_another_update(run, out, mask):
  """Train on from the output: nothing is NaN, and what is zero stays so."""
  restored = run.restore(out)

  def grad(path, leaf):
    values = np.cos(31 * np.asarray(leaf))
    if "'sinks'" in str(path):
      values[mask] = 0  # Rows of zeros get no gradient.
    return values

  grads = jax.tree_util.tree_map_with_path(grad, restored["params"])
  trained = run.update(run.update(restored, grads), grads)
  for path, leaf in flat(trained).items():
    assert np.isfinite(leaf).all(), path
  old, new = (
    np.asarray(state["params"]["layers"]["sinks"]["table"])
    for state in (restored, trained)
  )
  assert not new[mask].any()
  taught = ~mask
  if run.optimiser == "rows":
    # Sources 1 to 8; indices are all that a dedicated table's rows need.
    taught &= mask_of(run.config, [""] * 8, range(1, 9))
    np.testing.assert_array_equal(old[~taught], new[~taught])
  assert (old[taught] != new[taught]).mean() > 0.9


@pytest.mark.parametrize("optimiser", STATES)
def test_every_moment_is_erased(optimiser, make_run, keys, tmp_path):
  kind, edited = STATES[optimiser]
  run = make_run(kind=kind, optimiser=optimiser)
  summary = erase.erase(run.path, tmp_path / "out", keys[2:4])
  assert set(summary.arrays_edited) == {
    f"{name}.layers.sinks.table" for name in edited
  }
  mask = mask_of(run.config, keys[2:4], (3, 4))
  before, after = flat(run.state), flat(run.restore(tmp_path / "out"))
  for name, old in before.items():
    if name not in summary.arrays_edited:
      assert old.tobytes() == after[name].tobytes(), name
    elif old.shape[:3] == mask.shape:
      assert old[mask].any()
      assert not after[name][mask].any(), name
      assert old[~mask].tobytes() == after[name][~mask].tobytes(), name
  check_another_update(run, tmp_path / "out", mask)


@pytest.mark.parametrize(
  ("kind", "rows", "columns"),
  [("hashed", "v_col", "v_row"), ("narrow", "v_row", "v_col")],
)
def test_factored_moments_forget_rows_and_columns(
  kind, rows, columns, make_run, keys, tmp_path
):
  """optax calls the one without the larger axis `v_row`."""
  run = make_run(kind=kind, optimiser="factored", chunk_byte_size=64)
  rows, columns = (
    f"opt_state.0.{name}.layers.sinks.table" for name in (rows, columns)
  )
  summary = erase.erase(run.path, tmp_path / "out", [keys[5]])
  mask = mask_of(run.config, [keys[5]], [6])
  before, after = flat(run.state), flat(run.restore(tmp_path / "out"))
  assert before[rows].shape == mask.shape
  assert before[columns].shape == (2, 2, 12)
  assert not after[rows][mask].any()
  np.testing.assert_array_equal(after[rows][~mask], before[rows][~mask])
  for layer, stratum in np.ndindex(2, 2):
    survivors = before[rows][layer, stratum][~mask[layer, stratum]]
    exact = sum(map(fractions.Fraction, survivors.tolist())) / len(survivors)
    assert before[columns][layer, stratum].std() > 0
    assert set(after[columns][layer, stratum].tolist()) == {
      float(np.float32(float(exact)))
    }
  assert any(columns in line for line in summary.not_reached)
  check_another_update(run, tmp_path / "out", mask)


def test_factored_moments_do_not_depend_on_order(make_run, keys, tmp_path):
  run = make_run(kind="narrow", optimiser="factored", chunk_byte_size=64)
  erase.erase(run.path, tmp_path / "a", [keys[0]])
  erase.erase(tmp_path / "a", tmp_path / "ab", [keys[1]])
  erase.erase(run.path, tmp_path / "b", [keys[1]])
  erase.erase(tmp_path / "b", tmp_path / "ba", [keys[0], keys[1]])
  erase.erase(run.path, tmp_path / "both", [keys[1], keys[0]])
  found = [flat(run.restore(tmp_path / name)) for name in ("ab", "ba", "both")]
  for name in found[0]:
    values = {state[name].tobytes() for state in found}
    assert len(values) == 1, name


def test_the_mean_is_exact_in_any_order():
  draw = np.random.default_rng(0)
  values = np.exp(draw.normal(scale=20, size=2000)).astype(np.float32)
  values[::3] *= -1
  exact = sum(map(fractions.Fraction, values.tolist())) / len(values)
  for seed in range(3):
    parts = np.split(draw.permutation(values), [seed * 100, 700])
    random.Random(seed).shuffle(parts)
    mean = moments.Mean()
    for part in parts:
      mean.add(part)
    assert mean.value() == float(exact)
  mean = moments.Mean()
  assert mean.value() == 0
  mean.add(np.asarray([np.nan, 3, np.inf, 1], np.float32))
  assert mean.value() == 2


def array(name, shape, data_type="float32"):
  return arrays.Array(
    path=tuple(name.split(".")),
    metadata=b"",
    shape=shape,
    chunk_shape=shape,
    data_type=data_type,
    separator="/",
  )


SINK = "layers.sinks.table"
NARROW = assignment.SinkConfig(pool_size=16, sinks_per_source=4, strata=2)
PARAMS = (
  array(f"params.{SINK}", (2, 2, 8, 12)),
  array("params.head.kernel", (4, 32)),
  array("step", ()),
)


def find(*others, config=NARROW, params=PARAMS, item="ITEM"):
  return moments.find(item, [*params, *others], config)


def test_accepts_what_is_a_moment_of_the_backbone():
  found = find(
    array("opt_state.mu.head.kernel", (4, 32)),
    array("opt_state.sinks.mu.head.kernel", (4, 32)),
    array("opt_state.v_row.head.kernel", (32,)),
    array("opt_state.v.head.kernel", (1,)),
    array("opt_state.sinks.count", ()),
    array("opt_state.key", (2,), "uint32"),
  )
  assert [table.name for table in found.edited] == [f"params.{SINK}"]


@pytest.mark.parametrize(
  ("other", "message"),
  [
    # What `optax.flatten` saves: all moments in one vector.
    (array("opt_state.mu", (896,)), r"not known: opt_state.mu \(896,\); use"),
    (array("opt_state.mu.head.kernel", (4, 33)), r"kernel \(4, 33\)"),
    (array("ema.head", (4, 32)), r"not known: ema.head \(4, 32\)"),
    (array("params.copy", (2, 2, 8, 12)), r"not known: params.copy"),
    (array("params.sinks.gate", (3,)), r"not known: params.sinks.gate"),
    (array(f"opt_state.{SINK}.0", (2,)), r"not known: \S+table.0 \(2,\)"),
    (array(f"opt_state.memory.{SINK}", (9, 2, 2, 8, 12)), "does not fit"),
    (array(f"opt_state.v.{SINK}", (2, 2, 8)), "does not fit"),
    (array(f"opt_state.v_row.{SINK}", (2, 8, 12)), "does not fit"),
    # Columns without the rows that they can be reset by.
    (array(f"opt_state.v_col.{SINK}", (2, 2, 12)), "does not fit"),
    (
      array(f"opt_state.v_row.{SINK}", (2, 2, 8), "float64"),
      r"v_row\S+ \(2, 2, 8\) does not fit .* as float32",
    ),
  ],
)
def test_refuses_what_may_hold_sinks(other, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    find(other)
  assert "\n" not in str(caught.value)
  assert "--drop-optimizer" in str(caught.value)


def test_refuses_rows_that_look_like_columns():
  config = assignment.SinkConfig(
    kind="dedicated", sinks_per_source=2, strata=1, num_sources=6
  )
  params = (array(f"params.{SINK}", (2, 1, 12, 12)), *PARAMS[1:])
  others = [
    array(f"opt_state.{name}.{SINK}", (2, 1, 12)) for name in ("v_row", "v_col")
  ]
  with pytest.raises(
    errors.UserError, match=r"v_row\S+ .*v_col\S+ .*cannot be told apart"
  ):
    find(*others, config=config, params=params)
  assert len(find(config=config, params=params).edited) == 1


def test_refuses_a_checkpoint_without_table():
  with pytest.raises(errors.UserError, match=r"no array params.layers.sinks"):
    find(params=PARAMS[1:])
