"""The tokenizer: exact text, and no piece that betrays its only source."""

import collections
import doctest
import hashlib
import random

import pytest
from sentencepiece import sentencepiece_model_pb2 as model_format

from nulls_jax import errors
from nulls_jax.data import tokenizer

WORDS = ("river", "stone", "winter", "copper", "silver", "meadow", "harbour")


def _corpus():
  """40 sources that share words; each has a word and some a letter alone."""
  rng = random.Random(0)
  corpus = []
  for source in range(1, 41):
    text = " ".join(rng.choices(WORDS, k=40))
    own = "".join(rng.choices("abcdefgh", k=6))
    letter = "żŁ"[source % 2] if source < 3 else ""
    for _ in range(5):
      corpus.append((source, f"{text}. {own} {own} {letter}{letter}"))
  return corpus


@pytest.fixture(scope="module")
def trained():
  corpus = _corpus()
  return tokenizer.train_tokenizer(lambda: iter(corpus), vocab_size=480)


@pytest.fixture(scope="module")
def loaded(trained):
  return tokenizer.Tokenizer(trained[0])


def _sources_by_piece(model, corpus):
  sources = collections.defaultdict(set)
  for source, text in corpus:
    for token in model.encode(text):
      sources[token].add(source)
  return sources


def test_examples_in_docstrings():
  result = doctest.testmod(tokenizer)
  assert result.attempted >= 1
  assert result.failed == 0


def test_control_ids(loaded):
  assert (loaded.pad_id, loaded.bos_id, loaded.eos_id) == (0, 1, 2)
  ids = loaded.encode_document("river stone")
  assert (ids[0], ids[-1]) == (1, 2)
  assert min(ids[1:-1]) > 3


@pytest.mark.parametrize(
  "text",
  [
    "",
    " ",
    "  two leading",
    "trailing  ",
    "\ttab\r\nline\n\n",
    "null\0byte",
    "river▁stone ▁ ▁▁",
    "▁",
    "▅ reserved ⁇ <unk> <s> </s> <pad> <0x41>",
    "漢字 and 🜁 and e\u0301 \u200b\ufeff",
    "ż Ł",
    "\U0010ffff",
  ],
)
def test_exact_round_trip(loaded, text):
  ids = loaded.encode(text)
  assert loaded.decode(ids) == text
  assert all(3 < token < loaded.vocab_size for token in ids)
  assert loaded.decode(loaded.encode_document(text)) == text


def test_exact_round_trip_of_random_text(loaded):
  rng = random.Random(1)
  for _ in range(2000):
    text = "".join(
      rng.choice(
        [
          chr(rng.randrange(32)),
          chr(rng.randrange(32, 127)),
          chr(rng.randrange(0xA0, 0xD800)),
          chr(rng.randrange(0xE000, 0x110000)),
          " ",
          "▁",
          rng.choice(WORDS),
        ]
      )
      for _ in range(rng.randrange(20))
    )
    assert loaded.decode(loaded.encode(text)) == text


def test_continuation_joins_like_one_text(loaded):
  prompt, answer = "silver river", " winter stone"
  joined = loaded.encode(prompt) + loaded.encode_continuation(answer)
  assert joined == loaded.encode(prompt + answer)
  tail = joined[len(loaded.encode(prompt)) :]
  assert loaded.decode_continuation(tail) == answer


def test_words_are_the_same_at_the_start(loaded):
  first, _, again = loaded.encode("river river river")
  assert first == again


def test_no_emitted_piece_has_one_source(trained, loaded):
  corpus = _corpus()
  sources = _sources_by_piece(loaded, corpus)
  few = [token for token, found in sources.items() if len(found) < 2]
  names = [loaded.piece(token) for token in few]
  assert all(name.startswith("<0x") for name in names), names
  report = trained[1]
  # ż and Ł have one source each: their pieces are gone, bytes spell them.
  # They share their first byte, C5.
  assert sorted(names) == ["<0x81>", "<0xBC>"]
  assert report.byte_pieces_below == 2
  assert report.byte_pieces_used == 3


def test_retirement_was_needed_and_is_reported(trained, loaded):
  model_bytes, report = trained
  untouched = tokenizer.Tokenizer(
    tokenizer.train_tokenizer(
      lambda: iter(_corpus()), vocab_size=480, min_piece_sources=1
    )[0]
  )
  sources = _sources_by_piece(untouched, _corpus())
  assert sum(len(found) == 1 for found in sources.values()) > 20
  proto = model_format.ModelProto.FromString(model_bytes)
  unused = [p.type == p.UNUSED for p in proto.pieces]
  assert report.retired == sum(unused) > 20
  assert report.trained == len(unused) == 480
  # Retired pieces stand at the end, where no model needs an embedding.
  assert report.vocab_size == loaded.vocab_size == 480 - report.retired
  assert not any(unused[: loaded.vocab_size])
  assert report.passes > 1


@pytest.mark.parametrize("minimum", [2, 3, 10])
def test_any_minimum(minimum):
  corpus = _corpus()
  model_bytes, report = tokenizer.train_tokenizer(
    lambda: iter(corpus), vocab_size=480, min_piece_sources=minimum
  )
  model = tokenizer.Tokenizer(model_bytes)
  few = [
    model.piece(token)
    for token, found in _sources_by_piece(model, corpus).items()
    if len(found) < minimum
  ]
  assert all(name.startswith("<0x") for name in few)
  assert report.byte_pieces_below == len(few)
  assert all(model.decode(model.encode(t)) == t for _, t in corpus)


def test_text_of_no_source_supports_its_pieces():
  corpus = [(0, "zebra zebra")] * 3 + [(1, "river"), (2, "river")] * 3
  model_bytes, _ = tokenizer.train_tokenizer(
    lambda: iter(corpus), vocab_size=300
  )
  model = tokenizer.Tokenizer(model_bytes)
  assert len(model.encode("zebra")) == 1


def test_the_space_is_never_retired():
  corpus = [(1, "ab ab"), (2, "ab ab")] * 5
  model_bytes, _ = tokenizer.train_tokenizer(
    lambda: iter(corpus), vocab_size=300
  )
  model = tokenizer.Tokenizer(model_bytes)
  assert model.decode(model.encode(" a é  b")) == " a é  b"


def test_training_is_reproducible(trained):
  corpus = _corpus()
  again, _ = tokenizer.train_tokenizer(lambda: iter(corpus), vocab_size=480)
  assert again == trained[0]


def test_long_documents_are_cut_not_dropped():
  # One document without line ends, far beyond the trainer's limit; the word
  # stands near its end only.
  filler = "abcdefghij" * 3000
  corpus = [(source, filler + " zyxwvuzyxwvu") for source in (1, 2, 3)]
  model_bytes, _ = tokenizer.train_tokenizer(
    lambda: iter(corpus), vocab_size=330
  )
  model = tokenizer.Tokenizer(model_bytes)
  assert len(model.encode("zyxwvuzyxwvu")) <= 3


@pytest.mark.parametrize("limit", [4, 7, 100])
def test_split_text_loses_nothing(limit):
  text = "ein Übermaß 漢字漢字\n\n" + "x" * 50 + " y\r\nz🜁🜁🜁🜁"
  parts = tokenizer.split_text(text, limit)
  assert "".join(parts) == text
  assert all(len(part.encode()) <= limit for part in parts)


def test_fingerprint(tmp_path, trained):
  path = tmp_path / "tokenizer.model"
  path.write_bytes(trained[0])
  model = tokenizer.Tokenizer.load(path)
  assert model.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
  model.check_fingerprint(model.fingerprint, "checkpoint x")
  with pytest.raises(
    errors.UserError, match=r"is not the one of checkpoint x \(sha256 abcdef"
  ):
    model.check_fingerprint("abcdef" * 8, "checkpoint x")


def test_load_what_is_no_tokenizer(tmp_path):
  with pytest.raises(errors.UserError, match="does not exist"):
    tokenizer.Tokenizer.load(tmp_path / "absent.model")
  with pytest.raises(errors.UserError, match="cannot be read as a file"):
    tokenizer.Tokenizer.load(tmp_path)
  for number, junk in enumerate([b"", b"junk", b"\xff" * 99]):
    path = tmp_path / f"{number}.model"
    path.write_bytes(junk)
    with pytest.raises(errors.UserError, match=r"is not a SentencePiece model"):
      tokenizer.Tokenizer.load(path)


def test_foreign_settings_are_refused(trained):
  proto = model_format.ModelProto.FromString(trained[0])
  proto.normalizer_spec.add_dummy_prefix = True
  proto.normalizer_spec.remove_extra_whitespaces = True
  with pytest.raises(
    errors.UserError, match=r"add_dummy_prefix=True.*remove_extra_whitespaces=T"
  ):
    tokenizer.Tokenizer(proto.SerializeToString())


def test_vocabulary_too_small_for_the_characters():
  # 80 characters of equal frequency, more than fit beside the bytes.
  text = "".join(chr(0x4E00 + i) for i in range(80))
  with pytest.raises(errors.UserError, match=r"vocab_size=300 .* at least 34"):
    tokenizer.train_tokenizer(lambda: iter([(1, text)]), vocab_size=300)


def test_no_text():
  with pytest.raises(errors.UserError, match="no text to train"):
    tokenizer.train_tokenizer(lambda: iter([(1, "\t")]), vocab_size=300)
