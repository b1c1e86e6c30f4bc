"""Texts for a carried state that need little or no fetching: tiny Shakespeare, and a few verses."""
import os

from experiments.datasets import continuous_text, fetch, ptb, text
from experiments.datasets.continuous_text import ContinuousText


def load_tiny_shakespeare(data_dir: str | os.PathLike | None = None) -> ContinuousText:
  """Returns tiny Shakespeare by characters, 65 different, in parts of 8, 1 and 1 tenths.

  The last tenth is for testing, as in `text.load_tiny_shakespeare`; the one before it, which is
  training text there, for validation.

  Raises: as `fetch.fetch`.
  """
  content = fetch.fetch(text.TINY_SHAKESPEARE, data_dir).read_text(encoding='ascii')
  first, second = len(content) * 8 // 10, len(content) * 9 // 10
  return continuous_text.encode(
      'tiny_shakespeare_stream',
      {'train': content[:first], 'validation': content[first:second], 'test': content[second:]},
      sorted(set(content)), note='first 8 tenths for training, then validation, then test')


def load_embedded(data_dir: str | os.PathLike | None = None) -> ContinuousText:
  """Returns the characters of four verses over and over: 300 verses, 60, 60; nothing to fetch.

  The parts are drawn alike: it shows that learning works, and no generalisation.
  """
  del data_dir
  texts = _verses()
  return continuous_text.encode('embedded_text_stream', texts, sorted(set(texts['train'])),
                                note=_NOTE)


def load_embedded_words(data_dir: str | os.PathLike | None = None) -> ContinuousText:
  """Returns the same by words, with <eos> for each newline."""
  del data_dir
  words = {split: ptb.words_of(content) for split, content in _verses().items()}
  return continuous_text.encode('embedded_words', words, ptb.by_frequency(words['train']),
                                note=_NOTE)


_NOTE = 'four verses over and over: no part holds anything new'


def _verses() -> dict[str, str]:
  lines = text.verses(420)
  return {'train': ''.join(lines[:300]), 'validation': ''.join(lines[300:360]),
          'test': ''.join(lines[360:])}
