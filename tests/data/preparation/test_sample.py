"""The sample that a tokenizer is trained on: bounded, whoever reads it."""

import dataclasses

import pytest

from nulls_jax import errors
from nulls_jax.data.preparation import job, sample, work


def _draw(corpus, directory, config):
  """Return the sample of a corpus."""
  place = work.Work(directory)
  directory.mkdir()
  made = job.Job(corpus.path, config, on_error="refuse")
  plan = made.start(place, "dataset")
  task = sample.Task(plan, directory)
  for number in range(len(plan.blocks)):
    task(number)
  return sample.Sample(plan, place), len(plan.blocks)


@pytest.mark.parametrize("limit", [1, 4000, 20_000, 10**6])
def test_it_does_not_depend_on_the_blocks(many_blocks, tmp_path, limit):
  config = dataclasses.replace(many_blocks.config, tokenizer_bytes=limit)
  many, num_blocks = _draw(many_blocks, tmp_path / "many", config)
  one, num_one = _draw(
    many_blocks,
    tmp_path / "one",
    dataclasses.replace(config, block_bytes=10**7),
  )
  assert num_blocks > 20 and num_one == 1
  assert list(many()) == list(one())
  texts = [text for _, text in many()]
  assert many.num_documents == len(texts)
  assert many.num_bytes == sum(map(len, texts))
  if limit == 1:
    assert len(texts) == 1, "there must be something to train on"
  elif limit == 10**6:
    assert len(texts) == 240
  else:
    # Documents are short: the sample fills its bound.
    assert limit - 400 < many.num_bytes <= limit


def test_nothing_to_train_on(many_blocks, refused, tmp_path):
  path = tmp_path / "bad.jsonl"
  path.write_text("no JSON\n" * 3)
  line = refused(
    *("prepare", "--documents", path, "--out", tmp_path / "set"),
    "--refuse-bad-lines",
  )
  assert "no document is left: 0 excluded, 3 refused" in line
  assert "bad.jsonl:1: not JSON" in line
  assert [each.name for each in tmp_path.iterdir()] == ["bad.jsonl"]
  with pytest.raises(errors.UserError, match="no document is left: 240 excl"):
    many_blocks.prepare(
      tmp_path / "set", exclude={f"author/{n}" for n in range(50)}
    )
