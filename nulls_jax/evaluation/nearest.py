"""Which surviving source is nearest to one that is gone.

The paper serves a removed source with the sinks of its nearest neighbour
("Sink-Off", arXiv 2606.13873): cosine of mean-pooled embeddings.
"""

from collections.abc import Sequence

import numpy as np


def pool(embeddings_nxD: np.ndarray, owners: Sequence[int], num_sources: int):
  """Average the embeddings of each source's documents: `[num_sources, D]`.

  Args:
    embeddings_nxD: one row a document.
    owners: the source number of each document, from 0.
    num_sources: sources; each owns at least one document.
  """
  owners = np.asarray(owners, np.int64)
  counts = np.bincount(owners, minlength=num_sources)
  if not counts.all():
    raise ValueError(f"{int((counts == 0).sum())} sources have no document")
  sums = np.zeros((num_sources, embeddings_nxD.shape[1]))
  np.add.at(sums, owners, embeddings_nxD)
  return sums / counts[:, None]


def by_cosine(
  queries_mxD: np.ndarray, candidates_nxD: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Return the number and the cosine of each query's nearest candidate.

  Args:
    queries_mxD: embeddings of the sources that are gone.
    candidates_nxD: embeddings of the survivors, at least one.

  Returns:
    `int64 [m]` and `float64 [m]`; the first candidate wins a tie.
  """
  if not len(candidates_nxD):
    raise ValueError("no surviving source to be near to")
  cosines_mxn = _unit(queries_mxD) @ _unit(candidates_nxD).T
  chosen = cosines_mxn.argmax(axis=1)
  return chosen, cosines_mxn[np.arange(len(chosen)), chosen]


def _unit(vectors):
  vectors = np.asarray(vectors, np.float64)
  return vectors / np.maximum(
    np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30
  )
