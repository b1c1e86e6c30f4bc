"""IMDB: words of a review, both forms of the files with equal results, damaged files by name."""
import dataclasses
import hashlib
import io
import lzma
import tarfile

import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import fetch, imdb
from experiments.datasets.reviews import MARKS

LINES = {'train': [(0, 0, 2, 'Bad, BAD film!<br /><br />Bad.'), (1, 0, 9, "It's a good\x85 film")],
         'test': [(0, 0, 1, 'bad\tone'), (0, 10, 3, 'no film'), (1, 2, 8, 'good')]}


def table(lines):
  return lzma.compress(''.join('\t'.join(map(str, line)) + '\n' for line in lines).encode())


def archive(**splits):
  """An archive as published, texts in another order and some without label."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as file:
    def add(name, content):
      info = tarfile.TarInfo(f'aclImdb/{name}')
      info.size = len(content)
      file.addfile(info, io.BytesIO(content))
    add('README', b'about')
    add('train/unsup/0_0.txt', b'nobody knows')
    for split, lines in splits.items():
      for label, place, stars, text in reversed(lines):
        add(f'{split}/{("neg", "pos")[label]}/{place}_{stars}.txt', text.encode())
  return buffer.getvalue()


def put(folder, file, content):
  path = folder / file.path
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  return dataclasses.replace(file, size=len(content), urls=(),
                             sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def tables(tmp_path, monkeypatch):
  for split, lines in LINES.items():
    monkeypatch.setitem(imdb.TABLES, split, put(tmp_path, imdb.TABLES[split], table(lines)))
  return tmp_path


def test_words():
  assert imdb.words_of("Don't<br /><br />STOP (it);well-made:5/10\x85a\tb") == [
      "don't", 'stop', 'it', 'well', 'made', '5', '10', 'a', 'b']


def test_tables_by_hand(tables):
  found = imdb.load(tables, words=3, length=5)
  assert found.vocabulary == (*MARKS, 'bad', 'film', 'a')           # 3, 2, 1 times
  np.testing.assert_array_equal(found.train_images, [[1, 3, 3, 4, 3], [1, 2, 5, 2, 4]])
  np.testing.assert_array_equal(found.test_images, [
      [1, 3, 2, 0, 0], [1, 2, 4, 0, 0], [1, 2, 0, 0, 0]])
  assert found.train_labels.tolist() == [0, 1] and found.test_labels.tolist() == [0, 0, 1]
  assert 'the first 5 of a review' in found.note
  last = imdb.load(tables, words=3, length=3, keep='last')
  np.testing.assert_array_equal(last.train_images, [[3, 4, 3], [5, 2, 4]])


def test_the_archive_gives_what_the_tables_give(tables, tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.mktemp('archive')
  monkeypatch.setattr(imdb, 'ARCHIVE', put(folder, imdb.ARCHIVE, archive(**LINES)))
  assert imdb.load(folder, length=9).hash == imdb.load(tables, length=9).hash


def test_damaged_and_strange_files_are_named(tables, tmp_path_factory, monkeypatch):
  for content, message in ((b'no archive', 'imdb_test.tsv.xz is damaged'),
                           (table([(2, 0, 1, 'x')]), 'imdb_test.tsv.xz, line 1 is no review'),
                           (lzma.compress(b'0\t1\n'), 'line 1 is no review')):
    monkeypatch.setitem(imdb.TABLES, 'test', put(tables, imdb.TABLES['test'], content))
    with pytest.raises(ValueError, match=message):
      imdb.load(tables)
  (tables / imdb.TABLES['test'].path).write_bytes(b'other')
  with pytest.raises(ValueError, match='expected SHA-256'):
    imdb.load(tables)
  folder = tmp_path_factory.mktemp('archive')
  for content, message in ((b'no archive', 'aclImdb_v1.tar.gz is damaged'),
                           (archive(train=LINES['train']), 'holds no reviews for test')):
    monkeypatch.setattr(imdb, 'ARCHIVE', put(folder, imdb.ARCHIVE, content))
    with pytest.raises(ValueError, match=message):
      imdb.load(folder)


@pytest.mark.slow  # ten seconds of reading
def test_the_published_reviews_where_they_are_at_hand():
  for file in imdb.TABLES.values():
    if not (fetch.data_folder() / file.path).exists():
      pytest.skip(f'{file.path} is not in {fetch.data_folder()}; point SPARSEJAX_DATA_DIR to a '
                  'folder that has it')
  found = datasets.load('imdb')
  assert len(found.vocabulary) == 20_003 and found.train_images.shape == (25_000, 200)
  assert found.train_labels.sum() == found.test_labels.sum() == 12_500
  assert found.vocabulary[3] == 'the' and (found.train_images[:, 0] == 1).all()
