"""Sources of documents that have none: clusters of similar texts.

Owns `--sources cluster:K`: words are hashed and weighted by TF-IDF, the
vectors reduced by a truncated SVD (latent semantic analysis) and grouped by
mini-batch k-means, all of scikit-learn. The clustering is fitted once, on a
bounded sample of the corpus, and saved; every block, shard and later run
that loads the file puts a text into the same cluster.

Only documents without a key of their own are clustered: where the field
"source" is filled, the document keeps that key. So a web corpus in 5,000
clusters and one named source, the books, are prepared together.

Invariant: the file is a pure function of the sample, K and scikit-learn's
version; a text's cluster, of the file and the text. (To the bit on machines
of one kind: other processors round products of matrices differently.)
"""

import dataclasses
import functools
import io
import itertools
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data.reading import documents as documents_lib
from nulls_jax.data.reading import extra

FORMAT = "nulls clusters 1"

# A text's beginning says what it is about; more costs time only.
HEAD_CHARACTERS = 4096
# Documents that fix the weights of words and the reduced space; all of the
# sample fix the clusters.
_SPACE_DOCUMENTS = 20_000
_DOCUMENTS_PER_CLUSTER = 20
_MIN_DOCUMENTS = 100_000
_MAX_SAMPLE_BYTES = 2**40
_NUM_BUCKETS = 2**16
_NUM_DIMENSIONS = 128
_NUM_TERMS = 8
_MAX_TERMS = 500_000
_SEED = 20_230_601
# Documents held while they are assigned together.
_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 2**22


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
  """A fitted clustering: which cluster a text is in.

  W buckets of words, E dimensions of the reduced space, K clusters.

  Attributes:
    weights_W: inverse document frequency of each bucket, float32.
    space_ExW: the reduced space, float32.
    centers_KxE: of the clusters, float32.
    terms: the words that stand out in each cluster, "" if none was seen.
  """

  weights_W: np.ndarray
  space_ExW: np.ndarray
  centers_KxE: np.ndarray
  terms: tuple[str, ...]

  @property
  def num_clusters(self) -> int:
    """The number of clusters."""
    return len(self.centers_KxE)

  def predict(self, texts: Sequence[str]) -> list[int]:
    """Return the cluster of each text, from 0."""
    with _one_thread():
      return self._nearest(self._reduced(_vectors(map(_words, texts))))

  def assign(
    self, found: Iterable[documents_lib.Document]
  ) -> Iterator[documents_lib.Document]:
    """Yield the documents in their order, those without a source with one.

    Their metadata is the cluster's: {"terms": the words that stand out in
    it}. That of a single document says nothing of the others.
    """
    for batch in _batches(found):
      keyless = [document.text for document in batch if not document.source]
      numbers = iter(self.predict(keyless) if keyless else ())
      for document in batch:
        if document.source:
          yield document
          continue
        number = next(numbers)
        terms = self.terms[number]
        yield dataclasses.replace(
          document,
          source=f"cluster-{number:05d}",
          metadata={"terms": terms} if terms else {},
        )

  def save(self, path: str | os.PathLike) -> None:
    """Write the clustering to a file, whole; the same one, the same bytes.

    Raises:
      errors.MachineError: it cannot be written.
    """
    content = io.BytesIO()
    np.savez(
      content,
      format=np.array(FORMAT),
      weights=self.weights_W,
      space=self.space_ExW,
      centers=self.centers_KxE,
      terms=np.array(json.dumps(self.terms)),
    )
    files.write_whole(pathlib.Path(path), content.getvalue())

  def _reduced(self, counts_BxW: Any) -> np.ndarray:
    """Return the unit vectors of texts, float32 [B, E]."""
    reduced_BxE = _weighted(counts_BxW, self.weights_W) @ self.space_ExW.T
    return _unit(reduced_BxE)

  def _nearest(self, reduced_BxE: np.ndarray) -> list[int]:
    # |x - c|^2 without |x|^2, which is the same for every centre.
    lengths_K = np.einsum("ke,ke->k", self.centers_KxE, self.centers_KxE)
    found = []
    for start in range(0, len(reduced_BxE), _BATCH_DOCUMENTS):
      part_BxE = reduced_BxE[start : start + _BATCH_DOCUMENTS]
      scores_BxK = part_BxE @ self.centers_KxE.T - lengths_K[None, :] / 2
      found += scores_BxK.argmax(axis=1).tolist()
    return found


def fit(inputs: Any, *, num_documents: int | None = None) -> Clusters:
  """Cluster a sample of the documents that have no key of their own.

  Memory: about 0.4 GB for 5,000 clusters, whatever the corpus.

  Args:
    inputs: `inputs.Inputs` whose sources are clusters.
    num_documents: of the sample; None is 20 a cluster, and at least 100,000.

  Raises:
    errors.UserError: there are fewer documents than clusters, or
      scikit-learn is missing.
  """
  num_clusters = inputs.num_clusters
  _sklearn("cluster")
  wanted = num_documents or max(
    _MIN_DOCUMENTS, _DOCUMENTS_PER_CLUSTER * num_clusters
  )
  heads = (
    document.text[:HEAD_CHARACTERS]
    for document in inputs.sample(wanted, _MAX_SAMPLE_BYTES)
    if not document.source
  )
  with _one_thread():
    return _fit(heads, num_clusters)


def _fit(texts: Iterator[str], num_clusters: int) -> Clusters:
  vocabulary: dict[str, int] = {}
  first = list(itertools.islice(texts, _SPACE_DOCUMENTS))
  _check_enough(len(first), num_clusters)
  counts_BxW = _vectors(_counted(map(_words, first), vocabulary))
  del first
  weights_W = _inverse_frequencies(counts_BxW)
  weighted_BxW = _weighted(counts_BxW, weights_W)
  space = Clusters(
    weights_W=weights_W,
    space_ExW=_space(weighted_BxW),
    centers_KxE=np.zeros((0, 0), np.float32),
    terms=(),
  )
  reduced = [space._reduced(counts_BxW)]
  while batch := list(itertools.islice(texts, _BATCH_DOCUMENTS)):
    reduced.append(space._reduced(_vectors(map(_words, batch))))
  means = _sklearn("cluster").MiniBatchKMeans(
    num_clusters,
    random_state=_SEED,
    n_init=1,
    batch_size=1024,
    max_iter=20,
  )
  means.fit(np.concatenate(reduced))
  found = dataclasses.replace(
    space, centers_KxE=means.cluster_centers_.astype(np.float32)
  )
  numbers = found._nearest(reduced[0])
  terms = _terms(weighted_BxW, numbers, num_clusters, vocabulary)
  return dataclasses.replace(found, terms=terms)


def load(path: str | os.PathLike) -> Clusters:
  """Read a saved clustering; the same file is read once a process.

  Raises:
    errors.UserError: it is missing, damaged or none.
  """
  try:
    status = os.stat(path)
    return _load(os.fspath(path), status.st_mtime_ns, status.st_size)
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be read ({error.strerror}); give the file of clusters "
      "that `nulls prepare` wrote"
    ) from None


@functools.lru_cache(maxsize=1)
def _load(path: str, time: int, size: int) -> Clusters:
  del time, size  # They tell another file in the same place.
  try:
    with np.load(path, allow_pickle=False) as content:
      if str(content["format"]) != FORMAT:
        raise ValueError("of another format")
      return Clusters(
        weights_W=content["weights"],
        space_ExW=content["space"],
        centers_KxE=content["centers"],
        terms=tuple(json.loads(str(content["terms"]))),
      )
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise errors.UserError(
      f"{path} holds no clusters ({error}); give the file that "
      "`nulls prepare` wrote"
    ) from None


def _check_enough(num_documents: int, num_clusters: int) -> None:
  if num_documents < min(num_clusters, _SPACE_DOCUMENTS):
    raise errors.UserError(
      f"--sources cluster:{num_clusters}: only {num_documents} documents of "
      "the sample have no source of their own; ask for fewer clusters"
    )


def _batches(
  found: Iterable[documents_lib.Document],
) -> Iterator[list[documents_lib.Document]]:
  batch, held = [], 0
  for document in found:
    batch.append(document)
    held += len(document.text)
    if len(batch) == _BATCH_DOCUMENTS or held >= _BATCH_CHARACTERS:
      yield batch
      batch, held = [], 0
  if batch:
    yield batch


@functools.cache
def _vectorizer() -> Any:
  return _sklearn("feature_extraction.text").HashingVectorizer(
    n_features=_NUM_BUCKETS,
    alternate_sign=False,
    norm=None,
    dtype=np.float32,
    analyzer=list,
  )


@functools.cache
def _analyzer() -> Any:
  return (
    _sklearn("feature_extraction.text").HashingVectorizer().build_analyzer()
  )


def _words(text: str) -> list[str]:
  return _analyzer()(text[:HEAD_CHARACTERS])


def _vectors(words: Iterable[list[str]]) -> Any:
  """Return counts of hashed words, sparse float32 [B, W]."""
  return _vectorizer().transform(words)


def _counted(
  words: Iterable[list[str]], vocabulary: dict[str, int]
) -> Iterator[list[str]]:
  """Pass words on and count in how many texts each occurs."""
  for found in words:
    for word in set(found):
      if word in vocabulary or len(vocabulary) < _MAX_TERMS:
        vocabulary[word] = vocabulary.get(word, 0) + 1
    yield found


def _inverse_frequencies(counts_BxW: Any) -> np.ndarray:
  module = _sklearn("feature_extraction.text")
  return module.TfidfTransformer().fit(counts_BxW).idf_.astype(np.float32)


def _weighted(counts_BxW: Any, weights_W: np.ndarray) -> Any:
  """Return unit TF-IDF vectors with logarithmic counts, sparse float32."""
  weighted_BxW = counts_BxW.copy()
  weighted_BxW.data = 1 + np.log(weighted_BxW.data)
  weighted_BxW.data *= weights_W[weighted_BxW.indices]
  return _sklearn("preprocessing").normalize(weighted_BxW, copy=False)


def _space(weighted_BxW: Any) -> np.ndarray:
  """Return the directions in which the texts differ most, float32 [E, W]."""
  used = np.unique(weighted_BxW.indices)
  num_dimensions = min(_NUM_DIMENSIONS, weighted_BxW.shape[0], len(used))
  space_ExW = np.zeros((num_dimensions, weighted_BxW.shape[1]), np.float32)
  if num_dimensions:
    space = _sklearn("decomposition").TruncatedSVD(
      num_dimensions, n_iter=3, random_state=_SEED
    )
    space_ExW[:, used] = space.fit(weighted_BxW[:, used]).components_
  return space_ExW


def _unit(vectors_BxE: np.ndarray) -> np.ndarray:
  lengths_Bx1 = np.linalg.norm(vectors_BxE, axis=1, keepdims=True)
  return vectors_BxE / np.where(lengths_Bx1 > 0, lengths_Bx1, 1)


def _terms(
  weighted_BxW: Any,
  numbers: list[int],
  num_clusters: int,
  vocabulary: dict[str, int],
) -> tuple[str, ...]:
  """Return the words of the largest mean weight of each cluster."""
  words = sorted(vocabulary, key=lambda word: (vocabulary[word], word))
  # Of the words of one bucket the most frequent stands last and stays.
  buckets = _vectors([word] for word in words).indices
  names = dict(zip(buckets.tolist(), words, strict=True))
  members_KxB = _sparse(numbers, num_clusters)
  sums_KxW = (members_KxB @ weighted_BxW).tocsr()
  found = []
  for number in range(num_clusters):
    part = slice(sums_KxW.indptr[number], sums_KxW.indptr[number + 1])
    order = np.lexsort((sums_KxW.indices[part], -sums_KxW.data[part]))
    best = sums_KxW.indices[part][order[:_NUM_TERMS]].tolist()
    found.append(" ".join(names[bucket] for bucket in best if bucket in names))
  return tuple(found)


def _sparse(numbers: list[int], num_clusters: int) -> Any:
  """Return which text is in which cluster, sparse float32 [K, B]."""
  import scipy.sparse

  ones = np.ones(len(numbers), np.float32)
  places = (numbers, np.arange(len(numbers)))
  shape = (num_clusters, len(numbers))
  return scipy.sparse.csr_matrix((ones, places), shape=shape)


def _sklearn(name: str) -> Any:
  return extra.load(f"sklearn.{name}", "--sources cluster:K")


def _one_thread() -> Any:
  """Sums of threads come in any order; one thread gives the same bits."""
  module = extra.load("threadpoolctl", "--sources cluster:K")
  return module.threadpool_limits(1)
