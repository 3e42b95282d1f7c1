"""Encoding by words: what the tokenizer itself gives, whatever the text."""

import random

import numpy as np
import pytest

from nulls_jax.data import tokenizer, words

ODD = (
  "",
  " ",
  "  two  spaces and one at the end ",
  "a\nb\t c\r\n\r\nd",
  "U+2581 ▁ and in▁side a word▁",
  "東京都に住んでいる人は多い。",
  "𝕎𝕠𝕣𝕕 e\u0301 \u200b \x01",
  "x" * 5000 + " " + "ab" * 300,
)


@pytest.fixture(scope="module")
def trained():
  draw = random.Random(0)
  vocabulary = [
    "".join(draw.choices("abcdefgh", k=1 + n % 7)) for n in range(400)
  ]
  corpus = [
    (n % 9 + 1, " ".join(draw.choices(vocabulary, k=60))) for n in range(200)
  ]
  model_bytes, report = tokenizer.train_tokenizer(
    lambda: iter(corpus), vocab_size=500
  )
  assert report.retired > 0
  return tokenizer.Tokenizer(model_bytes), [text for _, text in corpus]


@pytest.mark.parametrize("max_words", [1, 50, 100_000])
def test_ids_are_the_tokenizers(trained, max_words, monkeypatch):
  monkeypatch.setattr(words, "_CHARACTERS_AT_ONCE", 2000)
  model, texts = trained
  assert model.is_by_word
  encoder = words.Encoder(model, max_words)
  texts = [*ODD, *texts, *ODD[::-1]]
  found = list(encoder.encode_each(enumerate(texts)))
  assert [number for number, _ in found] == list(range(len(texts)))
  for number, ids in found:
    assert ids.dtype == np.uint32
    assert ids.tolist() == model.encode(texts[number]), texts[number][:50]


class _AcrossSpaces:
  """A tokenizer with a piece that goes on behind a space."""

  is_by_word = False

  def encode(self, text):
    return [len(text), 70_000]


def test_other_tokenizers_encode_whole_texts():
  encoder = words.Encoder(_AcrossSpaces())
  ((item, ids),) = encoder.encode_each([("item", "one two")])
  assert (item, ids.tolist()) == ("item", [7, 70_000])


def test_pieces_behind_a_space_are_seen(trained):
  from sentencepiece import sentencepiece_model_pb2

  model, _ = trained
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(model.model_bytes)
  proto.pieces[400].piece = "a▁b"
  assert not tokenizer.Tokenizer(proto.SerializeToString()).is_by_word
