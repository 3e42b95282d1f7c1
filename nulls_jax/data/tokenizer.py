"""SentencePiece: training on a corpus, and exact text <-> token ids.

Owns the tokenizer's settings and the retirement of pieces that too few
sources use: such a piece has an embedding of its own that would carry its
source's facts around the sinks (`SCIENCE.md`, trap 1).

Invariant: `decode(encode(text)) == text` for any valid Unicode text.

Texts are read with one space put before them, so that a word has the same
pieces at the start of a text as inside it. The character U+2581, which
SentencePiece uses for the space, is spelled in bytes.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import sentencepiece
from google.protobuf import message
from sentencepiece import sentencepiece_model_pb2 as model_format

from nulls_jax import errors
from nulls_jax.data import pieces

PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)
# Longest text that the trainer sees at once. It would skip longer ones; ours
# are cut, at line ends and spaces where there are any.
MAX_SENTENCE_BYTES = 4192

_SPACE = "▁"
# The trainer skips sentences with its reserved characters: cut there.
_RESERVED = re.compile("[\0\t\u2581\u2585]+")
_BYTES_OF_SPACE = tuple(_SPACE.encode("utf-8"))
_FIRST_BYTE_ID = 4

_Piece = model_format.ModelProto.SentencePiece


@dataclasses.dataclass(frozen=True, kw_only=True)
class PieceReport:
  """What became of pieces that fewer than `min_sources` sources use.

  Attributes:
    trained: entries that were trained, retired ones included.
    vocab_size: ids that are emitted: the trained less the retired entries.
    min_sources: sources that a piece needs.
    retired: pieces that are no longer emitted.
    retired_unused: those of them that no source used.
    passes: readings of the corpus until none was left.
    byte_pieces_used: byte pieces that the corpus uses.
    byte_pieces_below: byte pieces used by fewer sources than needed; they
      stay, because any text must be spelled.
  """

  trained: int
  vocab_size: int
  min_sources: int
  retired: int
  retired_unused: int
  passes: int
  byte_pieces_used: int
  byte_pieces_below: int


class Tokenizer:
  """Text to token ids and back."""

  def __init__(self, model_bytes: bytes, origin: str = "tokenizer"):
    """Load a serialised model.

    Raises:
      errors.UserError: the bytes are no SentencePiece model, or one with
        other settings than this package trains with.
    """
    self._processor = _load(model_bytes, origin)
    self.model_bytes = model_bytes
    self.fingerprint = hashlib.sha256(model_bytes).hexdigest()
    self.pad_id, self.bos_id, self.eos_id = PAD_ID, BOS_ID, EOS_ID
    self.vocab_size = _num_live(self._processor)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Tokenizer":
    """Load a model file; `errors.UserError` when that is not possible."""
    try:
      model_bytes = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
      raise errors.UserError(
        f"{path} does not exist; give the tokenizer.model of a prepared "
        "dataset or of a run"
      ) from None
    except (IsADirectoryError, PermissionError):
      raise errors.UserError(
        f"{path} cannot be read as a file; give a tokenizer.model"
      ) from None
    return cls(model_bytes, str(path))

  def encode(self, text: str) -> list[int]:
    """Return the pieces of a text, without bos and eos."""
    return self.encode_continuation(" " + text)

  def encode_continuation(self, text: str) -> list[int]:
    """Return the pieces of text that follows other text.

    Where a word starts at the seam, `encode(a) + encode_continuation(b)` is
    `encode(a + b)`: give answers with their leading space.
    """
    head, *rest = text.split(_SPACE)
    ids = self._processor.encode(head)
    for part in rest:
      ids.extend(_FIRST_BYTE_ID + byte for byte in _BYTES_OF_SPACE)
      ids.extend(self._processor.encode(part))
    return ids

  def encode_document(self, text: str) -> list[int]:
    """Return bos, the pieces of a text, eos."""
    return [self.bos_id, *self.encode(text), self.eos_id]

  def decode(self, ids: Iterable[int]) -> str:
    """Return the text of pieces; pad, bos and eos are nothing."""
    return self.decode_continuation(ids).removeprefix(" ")

  def decode_continuation(self, ids: Iterable[int]) -> str:
    """Return the text of pieces that follow other pieces: spaces kept."""
    return self._processor.decode([int(i) for i in ids])

  def piece(self, token: int) -> str:
    """Return the piece of one id as SentencePiece writes it."""
    return self._processor.id_to_piece(int(token))

  def encode_words(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pieces of words, each with a space before it.

    Where `is_by_word`, `encode` of a text is this of `text.split(" ")`.

    Args:
      words: without a space.

    Returns:
      The ids of all words, `uint32 [pieces]`, and where each word's end,
      `int64 [words]`.
    """
    found = self._processor.encode(
      [f" {word}" for word in words], num_threads=1
    )
    for place, word in enumerate(words):
      if _SPACE in word:
        found[place] = self.encode(word)
    return (
      np.fromiter(itertools.chain.from_iterable(found), np.uint32),
      np.cumsum([len(ids) for ids in found], dtype=np.int64),
    )

  @property
  def num_pieces(self) -> int:
    """Pieces in the model, the retired ones too."""
    return self._processor.vocab_size()

  @functools.cached_property
  def is_by_word(self) -> bool:
    """Say whether no piece goes on behind a space; so it is if trained here."""
    written = self._processor.id_to_piece(list(range(self.num_pieces)))
    return all(_SPACE not in piece[1:] for piece in written)

  def check_fingerprint(self, expected: str, owner: str):
    """Raise unless this is the tokenizer that `owner` was made with.

    Args:
      expected: the fingerprint that the owner carries.
      owner: what carries it, for the message, like "checkpoint runs/a".

    Raises:
      errors.UserError: the fingerprints differ.
    """
    if self.fingerprint != expected:
      raise errors.UserError(
        f"the tokenizer (sha256 {self.fingerprint[:12]}...) is not the one "
        f"of {owner} (sha256 {expected[:12]}...); use the tokenizer.model "
        "that was written with it"
      )


def _load(model_bytes: bytes, origin: str):
  processor = sentencepiece.SentencePieceProcessor()
  proto = model_format.ModelProto()
  try:
    proto.ParseFromString(model_bytes)
    processor.load_from_serialized_proto(model_bytes)
  except (RuntimeError, message.DecodeError):
    raise errors.UserError(
      f"{origin} is not a SentencePiece model; give a tokenizer.model"
    ) from None
  expected = {
    "byte_fallback": (proto.trainer_spec.byte_fallback, True),
    "pad_id": (processor.pad_id(), PAD_ID),
    "bos_id": (processor.bos_id(), BOS_ID),
    "eos_id": (processor.eos_id(), EOS_ID),
    "unk_id": (processor.unk_id(), UNK_ID),
    "normalization": (proto.normalizer_spec.name, "identity"),
    "add_dummy_prefix": (proto.normalizer_spec.add_dummy_prefix, False),
    "remove_extra_whitespaces": (
      proto.normalizer_spec.remove_extra_whitespaces,
      False,
    ),
  }
  wrong = [
    f"{name}={found} (expected {wanted})"
    for name, (found, wanted) in expected.items()
    if found != wanted
  ]
  if wrong:
    raise errors.UserError(
      f"{origin} has settings that do not keep text exactly: "
      f"{errors.listing(wrong)}; use a tokenizer trained by this package"
    )
  return processor


def _num_live(processor) -> int:
  """Return the ids that can be emitted: retired pieces stand at the end."""
  size = processor.vocab_size()
  while processor.is_unused(size - 1):
    size -= 1
  return size


def train_tokenizer(
  documents: Callable[[], Iterable[tuple[int, str]]],
  *,
  vocab_size: int,
  min_piece_sources: int = 2,
) -> tuple[bytes, PieceReport]:
  """Train a BPE model and retire pieces that too few sources use.

  Args:
    documents: called once for every pass over the corpus; gives pairs of the
      source (any integer but 0; 0 is no source) and a text.
    vocab_size: entries that are trained at most. Retired ones get the last
      ids, so that a model needs fewer embeddings.
    min_piece_sources: sources that a piece needs to be emitted.

  Returns:
    The serialised model and what was retired.

  Raises:
    errors.UserError: there is no text, or the vocabulary cannot hold the
      characters of the corpus.
  """
  model_bytes = _train(documents, vocab_size)
  return _retire(model_bytes, documents, min_piece_sources)


def split_text(text: str, max_bytes: int = MAX_SENTENCE_BYTES) -> list[str]:
  """Cut a text into parts of at most `max_bytes` UTF-8 bytes.

  Before a line end, else before a space, else between any characters; each
  part is as long as that allows, and nothing is lost.

  >>> split_text("one two\\nthree four", max_bytes=9)
  ['one two', '\\nthree', ' four']
  """
  parts = []
  start = 0
  while start < len(text):
    # A character has at least one byte: more than these cannot fit.
    ahead = text[start : start + max_bytes]
    fits = ahead.encode("utf-8")[:max_bytes].decode("utf-8", errors="ignore")
    end = start + len(fits)
    if end < len(text):
      # A break at `end` itself is as good as one before it.
      breaks = (text.rfind(mark, start + 1, end + 1) for mark in "\n ")
      end = next((place for place in breaks if place > 0), end)
    parts.append(text[start:end])
    start = end
  return parts


def _sentences(documents: Iterable[tuple[int, str]]) -> Iterator[str]:
  """Yield what the trainer sees; it skips none of these."""
  for _, text in documents:
    for part in _RESERVED.split(" " + text):
      for sentence in split_text(part):
        if sentence.strip():
          yield sentence


def _character_coverage(documents, vocab_size: int) -> float:
  """Return the share of characters that get pieces of their own.

  All of them where they are few; otherwise SentencePiece's usual share, and
  bytes spell the rare rest.
  """
  characters = set()
  for _, text in documents():
    characters.update(text)
  return 1.0 if len(characters) <= vocab_size // 8 else 0.9995


def _train(documents, vocab_size: int) -> bytes:
  if next(_sentences(documents()), None) is None:
    raise errors.UserError("no text to train a tokenizer on")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_sentences(documents()),
      model_writer=model,
      model_type="bpe",
      vocab_size=vocab_size,
      byte_fallback=True,
      normalization_rule_name="identity",
      remove_extra_whitespaces=False,
      add_dummy_prefix=False,
      character_coverage=_character_coverage(documents, vocab_size),
      max_sentence_length=2 * MAX_SENTENCE_BYTES,
      pad_id=PAD_ID,
      bos_id=BOS_ID,
      eos_id=EOS_ID,
      unk_id=UNK_ID,
      hard_vocab_limit=False,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    # The trainer's one complaint about size: "... 270 vs 299. ..."
    need = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
    if need is None:
      raise
    raise errors.UserError(
      f"data.vocab_size={vocab_size} cannot hold the characters of this "
      f"corpus beside bytes and control pieces; give at least {need[1]}"
    ) from None
  return model.getvalue()


def _retire(model_bytes: bytes, documents, min_sources: int):
  """Retire pieces with few sources until every emitted piece has enough."""
  proto = model_format.ModelProto()
  proto.ParseFromString(model_bytes)
  types = np.array([piece.type for piece in proto.pieces])
  is_byte = types == _Piece.BYTE
  # The space itself must stay: its bytes spell the character U+2581.
  can_retire = np.array(
    [p.type == _Piece.NORMAL and p.piece != _SPACE for p in proto.pieces]
  )
  retired = np.zeros(len(types), bool)
  passes = 0
  use = pieces.WordUse(documents(), min_sources)
  while True:
    passes += 1
    tokenizer = Tokenizer(proto.SerializeToString())
    counts = use.of_pieces(tokenizer)
    below = (counts > 0) & (counts < min_sources)
    kept = can_retire & ~retired
    few = kept & below
    if not few.any():
      break
    # Pieces that nobody uses wait: the parts of a retired piece may need
    # them, and then several sources may share them.
    _silence(proto, few)
    retired |= few
  unused = kept & (counts == 0)
  _silence(proto, unused)
  retired |= unused
  _move_to_end(proto, retired)
  report = PieceReport(
    trained=len(types),
    vocab_size=int((~retired).sum()),
    min_sources=min_sources,
    retired=int(retired.sum()),
    retired_unused=int(unused.sum()),
    passes=passes,
    byte_pieces_used=int((is_byte & (counts > 0)).sum()),
    byte_pieces_below=int((is_byte & below).sum()),
  )
  return proto.SerializeToString(), report


def _silence(proto, which: np.ndarray):
  """Mark pieces so that the encoder never emits them.

  The encoder spells an UNUSED piece by the two pieces that it was merged
  from. A single character has none, and SentencePiece 0.2.1 emits it all the
  same (0.2.3 does not): it also loses its text, so that bytes spell it.
  """
  for index in np.flatnonzero(which):
    piece = proto.pieces[int(index)]
    piece.type = _Piece.UNUSED
    if len(piece.piece) == 1:
      piece.piece = f"{_SPACE}<retired {int(index)}>"


def _move_to_end(proto, which: np.ndarray):
  """Give pieces the last ids; merges go by score, not by id."""
  old = list(proto.pieces)
  order = np.concatenate([np.flatnonzero(~which), np.flatnonzero(which)])
  moved = [old[index] for index in order.tolist()]
  del proto.pieces[:]
  proto.pieces.extend(moved)
