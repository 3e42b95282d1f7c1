"""Nearest sources by angle, not by length."""

import numpy as np
import pytest

from nulls_jax.evaluation import nearest


def test_pool_averages_documents_of_a_source():
  pooled = nearest.pool(
    np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]]), [0, 0, 1], 2
  )
  np.testing.assert_allclose(pooled, [[2.0, 1.0], [5.0, 5.0]])


def test_pool_refuses_a_source_without_documents():
  with pytest.raises(ValueError, match="1 sources have no document"):
    nearest.pool(np.ones((1, 2)), [0], 2)


def test_by_cosine_ignores_length():
  candidates = np.array([[100.0, 90.0], [0.1, 0.0], [-1.0, 0.0]])
  chosen, cosines = nearest.by_cosine(
    np.array([[1.0, 0.1], [-5.0, 1.0]]), candidates
  )
  assert chosen.tolist() == [1, 2]
  assert cosines == pytest.approx([1 / np.hypot(1, 0.1), 5 / np.hypot(5, 1)])


def test_by_cosine_needs_a_survivor():
  with pytest.raises(ValueError, match="no surviving source"):
    nearest.by_cosine(np.ones((1, 2)), np.ones((0, 2)))
