"""Penn Treebank: lines to words and characters by hand, and the published counts where at hand."""
import dataclasses
import hashlib

import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import fetch, ptb

TEXTS = {'train': ' a b <unk> \n b b \n', 'validation': ' a \n', 'test': ' b a \n b \n'}


def publish(folder, monkeypatch, **texts):
  """Puts texts into the data folder in the place of the published ones."""
  for split, content in (TEXTS | texts).items():
    file = dataclasses.replace(ptb.FILES[split], size=len(content), urls=(),
                               sha256=hashlib.sha256(content.encode()).hexdigest())
    monkeypatch.setitem(ptb.FILES, split, file)
    path = folder / file.path
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


def test_words_by_hand(tmp_path, monkeypatch):
  publish(tmp_path, monkeypatch)
  found = ptb.load_words(tmp_path)
  # b three times, <eos> twice, then <unk> and a once, by code points.
  assert found.class_names == ('b', '<eos>', '<unk>', 'a')
  np.testing.assert_array_equal(found.train, [3, 0, 2, 1, 0, 0, 1])
  np.testing.assert_array_equal(found.validation, [3, 1])
  np.testing.assert_array_equal(found.test, [0, 3, 1, 0, 1])


def test_rare_words_become_unknown(tmp_path, monkeypatch):
  publish(tmp_path, monkeypatch)
  found = ptb.load_frequent_words(tmp_path, vocabulary=3)
  assert found.class_names == ('b', '<eos>', '<unk>') and found.name == 'ptb_word_3'
  np.testing.assert_array_equal(found.train, [2, 0, 2, 1, 0, 0, 1])       # a is not among them
  with pytest.raises(ValueError, match='vocabulary=2 of Penn Treebank is too small to hold <unk>'):
    ptb.load_frequent_words(tmp_path, vocabulary=2)


def test_characters_by_hand(tmp_path, monkeypatch):
  publish(tmp_path, monkeypatch)
  found = ptb.load_characters(tmp_path)
  assert ''.join(found.class_names[i] for i in found.train) == 'a b <unk>\nb b\n'
  assert ''.join(found.class_names[i] for i in found.test) == 'b a\nb\n'
  assert found.class_names == tuple('\n <>abknu')
  windows = ptb.load_character_windows(tmp_path, window=1)
  assert len(windows.train_images) == len('a b <unk>\nb b\n') - 1
  assert windows.validation_images.tolist() == [[found.class_names.index('a')]]
  assert ptb.characters_of('  two  \nnone\n') == ' two \nnone\n'      # one space at each end


def test_a_word_that_training_lacks_is_named(tmp_path, monkeypatch):
  publish(tmp_path, monkeypatch, test=' b strange \n')
  with pytest.raises(ValueError, match="ptb_word/test: symbol 1 is 'strange', which is none of the "
                                       '4 of the vocabulary'):
    ptb.load_words(tmp_path)


def test_a_damaged_file_is_named(tmp_path, monkeypatch):
  publish(tmp_path, monkeypatch)
  path = tmp_path / ptb.FILES['test'].path
  path.write_text(TEXTS['test'][:-2])
  with pytest.raises(ValueError, match='ptb.test.txt is truncated'):
    ptb.load_words(tmp_path)


def test_the_published_counts_where_the_files_are_at_hand():
  for file in ptb.FILES.values():
    if not (fetch.data_folder() / file.path).exists():
      pytest.skip(f'{file.path} is not in {fetch.data_folder()}; point SPARSEJAX_DATA_DIR to a '
                  'folder that has it')
  words, characters = datasets.load('ptb_word'), datasets.load('ptb_char')
  assert words.classes == 10_000 and characters.classes == 50
  assert [len(part) for part in (words.train, words.validation, words.test)] == [
      929_589, 73_760, 82_430]
  assert [len(part) for part in (characters.train, characters.validation, characters.test)] == [
      5_017_482, 393_042, 442_423]
