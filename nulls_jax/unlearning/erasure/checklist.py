"""What an erasure cannot reach: the checklist that a receipt carries.

Owns these sentences. Each names something that may still hold the erased
sources and that a person has to see to.
"""

from collections.abc import Iterable

from nulls_jax import errors

_ALWAYS = (
  "The run that was read: it is unchanged and still holds the sources, in "
  "every step of it. Delete it when nothing needs it any more.",
  "Copies of that run and of its checkpoints: backups, object stores, other "
  "machines, and models that were trained further from it.",
  "Exports made from it: quantised or converted files, and services that "
  "have them loaded.",
  "The prepared dataset that it was trained on, the documents themselves, "
  "the index of passages and the selections that were made of them.",
  "The tokenizer: it was fitted to all texts and is the same as before.",
  "The logs of that run: metrics, TensorBoard, what the machine printed.",
  "Texts that the model has written, wherever they were kept.",
  "Free space of the disks that held any of these, and memory of machines "
  "that run on: what was deleted there can be read until it is overwritten.",
)


def not_reached(
  *,
  steps_left: Iterable[int],
  column_statistics: Iterable[str],
  kept_mentions: Iterable[str],
  is_grown: bool = False,
) -> tuple[str, ...]:
  """Return the checklist, a sentence or two each.

  Args:
    steps_left: steps of the run that the output does not have.
    column_statistics: names of the moments whose columns were reset.
    kept_mentions: places of words that equal a key and may be settings.
    is_grown: the run that was read started from another one.
  """
  lines = list(_ALWAYS)
  steps, columns, places = map(
    list, (steps_left, column_statistics, kept_mentions)
  )
  if is_grown:
    lines.append(
      "The run that this one was grown from, and the runs before it: they hold "
      "the sources that they were trained on."
    )
  if steps:
    lines.append(
      f"Steps of that run that were not written: {errors.listing(steps)}. "
      "They hold the sources."
    )
  if columns:
    lines.append(
      "Column statistics of a factored optimiser mix all rows, so that no "
      "source's part can be taken out of them. They were reset, every column "
      "to the mean of the surviving rows' statistics: "
      f"{errors.listing(columns)}."
    )
  if places:
    lines.append(
      "Words that equal a source's key and were left, because they may be "
      f"settings of the run: {errors.listing(places)}."
    )
  return tuple(lines)
