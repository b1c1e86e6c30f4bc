"""IMDB reviews with their sentiment: 25,000 for training, 25,000 for testing, half each positive.

Source: A. Maas et al., 2011, "Learning word vectors for sentiment analysis"; Large Movie Review
Dataset v1.0. Its archive is fetched if it is not there; tables imdb/imdb_{train,test}.tsv.xz of its
labelled texts (a line: label, id, stars, text, by tabs; negative before positive, by id) are read
in its place where there are both.

Words as Keras splits them for its copy of these reviews: lower case, punctuation but the apostrophe
makes spaces, and so does a line break <br />, which Keras reads as the word br. The vocabulary is
that of the training texts; that of Keras counts the test texts, too. As in the code of LoCV17, the
first words of a long review are kept.
"""
import lzma
import os
import pathlib
import string
import tarfile

import numpy as np

from experiments.datasets import fetch, reviews
from experiments.datasets.reviews import Reviews

WORDS, LENGTH = 20_000, 200
ARCHIVE = fetch.RemoteFile(
    path='imdb/aclImdb_v1.tar.gz', size=84_125_825,
    sha256='c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe',
    urls=('https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz',))
TABLES = {
    'train': fetch.RemoteFile(
        path='imdb/imdb_train.tsv.xz', size=9_061_976, urls=(),
        sha256='a385799521fb6d2b87c3020e4f9e3d6e4d0ed9077c1d0d79e32074ffbf691edc'),
    'test': fetch.RemoteFile(
        path='imdb/imdb_test.tsv.xz', size=8_826_108, urls=(),
        sha256='7a4dc8fcac11a2209181d6fca21ec5ac5e296f5f05f8a5fe538e10af005a843e'),
}
_SPACES = str.maketrans(dict.fromkeys(string.punctuation.replace("'", '') + '\t\n\r', ' '))
_FOLDERS = ('neg', 'pos')                  # label 0, label 1

Texts = tuple[list[str], np.ndarray]       # of one split, with labels int32


def load(data_dir: str | os.PathLike | None = None, words: int = WORDS, length: int = LENGTH,
         keep: str = 'first') -> Reviews:
  """Returns the reviews as (25000, length) word numbers, in the order of the tables.

  Args:
    data_dir: the data folder. words: of the vocabulary, beside the three `reviews.MARKS`.
    length: numbers of a review, the mark of its start among them; `keep`: see `reviews.encode`.
  Raises: as `fetch.fetch`; ValueError for a table that is no table, or counts out of range.
  """
  folder = fetch.data_folder(data_dir)
  if all((folder / table.path).exists() for table in TABLES.values()):
    read = {split: read_table(fetch.fetch(table, data_dir)) for split, table in TABLES.items()}
  else:
    read = read_archive(fetch.fetch(ARCHIVE, data_dir))
  split_texts = {split: [words_of(text) for text in texts] for split, (texts, _) in read.items()}
  vocabulary = reviews.vocabulary_of(split_texts['train'], words)
  tokens = {split: reviews.encode(texts, vocabulary, length, keep)
            for split, texts in split_texts.items()}
  return Reviews(
      name='imdb', classes=2, class_names=('negative', 'positive'),
      train_images=tokens['train'], train_labels=read['train'][1],
      test_images=tokens['test'], test_labels=read['test'][1], vocabulary=vocabulary,
      note=f'{words:,} most frequent words of the training texts, the {keep} {length} of a review')


def words_of(text: str) -> list[str]:
  """Returns the words of a review: lower case, split at white space and punctuation but '."""
  return text.replace('<br />', ' ').lower().translate(_SPACES).split()


def read_table(path: pathlib.Path) -> Texts:
  """Returns the texts and labels of a table.

  Raises: ValueError for a file that is damaged or a line that is no review.
  """
  try:
    lines = lzma.decompress(path.read_bytes()).decode().removesuffix('\n').split('\n')
  except (lzma.LZMAError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} is damaged: {error}; delete it, to have the set fetched') from error
  texts, labels = [], []
  for number, line in enumerate(lines, 1):
    fields = line.split('\t', 3)
    if len(fields) != 4 or fields[0] not in ('0', '1'):
      raise ValueError(f'{path}, line {number} is no review (label 0 or 1, id, stars, text, by '
                       f'tabs): {line[:40]!r}; delete the file, to have the set fetched')
    labels.append(int(fields[0]))
    texts.append(fields[3])
  return texts, np.array(labels, np.int32)


def read_archive(path: pathlib.Path) -> dict[str, Texts]:
  """Returns the labelled texts of the archive by split, ordered as in the tables.

  Takes about ten seconds: the archive holds 50,000 texts without label, too.

  Raises: ValueError for a file that is no such archive.
  """
  found: dict[str, list[tuple[int, int, str]]] = {'train': [], 'test': []}
  try:
    with tarfile.open(path, 'r:gz') as archive:
      for member in archive:
        parts = member.name.split('/')         # aclImdb/train/neg/17_3.txt: id 17, 3 stars
        if len(parts) == 4 and parts[1] in found and parts[2] in _FOLDERS and member.isfile():
          file = archive.extractfile(member)
          assert file is not None              # it is a file
          label, place = _FOLDERS.index(parts[2]), int(parts[3].split('_')[0])
          found[parts[1]].append((label, place, file.read().decode()))
  except (tarfile.TarError, EOFError, UnicodeDecodeError, ValueError) as error:
    raise ValueError(f'{path} is damaged: {error}; delete it, to have it fetched again') from error
  empty = [split for split, rows in found.items() if not rows]
  if empty:
    raise ValueError(f'{path} holds no reviews for {" and ".join(empty)}; delete it, to have it '
                     'fetched again')
  return {split: ([text for _, _, text in sorted(rows)],
                  np.array([label for label, _, _ in sorted(rows)], np.int32))
          for split, rows in found.items()}
