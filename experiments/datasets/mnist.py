"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images, 28x28 grey, in ten classes.

Sources: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits; H. Xiao,
K. Rasul, R. Vollgraf, 2017, Fashion-MNIST, arXiv:1708.07747. Both are four gzipped IDX files.
"""
import os

import numpy as np

from experiments.datasets import fetch, idx
from experiments.datasets.dataset import Dataset

# name: (bytes, SHA-256) of the published files. The mirrors, one without TLS, need no trust: other
# bytes are refused.
_MNIST_MIRRORS = (
    'https://ossci-datasets.s3.amazonaws.com/mnist/',
    'https://storage.googleapis.com/cvdf-datasets/mnist/',
)
_MNIST_FILES = {
    'train-images-idx3-ubyte.gz':
        (9_912_422, '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609'),
    'train-labels-idx1-ubyte.gz':
        (28_881, '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c'),
    't10k-images-idx3-ubyte.gz':
        (1_648_877, '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6'),
    't10k-labels-idx1-ubyte.gz':
        (4_542, 'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6'),
}
_FASHION_MIRRORS = (
    'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',
    'https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/',
)
_FASHION_FILES = {
    'train-images-idx3-ubyte.gz':
        (26_421_880, '3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84'),
    'train-labels-idx1-ubyte.gz':
        (29_515, 'a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845'),
    't10k-images-idx3-ubyte.gz':
        (4_422_102, '346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073'),
    't10k-labels-idx1-ubyte.gz':
        (5_148, '67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5'),
}


def _remote(folder: str, mirrors: tuple[str, ...],
            files: dict[str, tuple[int, str]]) -> dict[str, fetch.RemoteFile]:
  return {name: fetch.RemoteFile(path=f'{folder}/{name}', size=size, sha256=sha256,
                                 urls=tuple(mirror + name for mirror in mirrors))
          for name, (size, sha256) in files.items()}


MNIST = _remote('mnist', _MNIST_MIRRORS, _MNIST_FILES)
FASHION_MNIST = _remote('fashion-mnist', _FASHION_MIRRORS, _FASHION_FILES)


def load_mnist(data_dir: str | os.PathLike | None = None) -> Dataset:
  """Returns MNIST: images (60000, 28, 28, 1) for training, (10000, 28, 28, 1) for testing.

  Raises: as `fetch.fetch` and `idx.read`.
  """
  return _load('mnist', MNIST, tuple('0123456789'), data_dir)


def load_fashion_mnist(data_dir: str | os.PathLike | None = None) -> Dataset:
  """Returns Fashion-MNIST, shaped as MNIST. Raises: as `fetch.fetch` and `idx.read`."""
  names = ('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker',
           'Bag', 'Ankle boot')
  return _load('fashion_mnist', FASHION_MNIST, names, data_dir)


def _load(name: str, files: dict[str, fetch.RemoteFile], class_names: tuple[str, ...],
          data_dir: str | os.PathLike | None) -> Dataset:
  def images(split):
    path = fetch.fetch(files[f'{split}-images-idx3-ubyte.gz'], data_dir)
    return idx.read(path, dimensions=3)[..., np.newaxis]

  def labels(split):
    path = fetch.fetch(files[f'{split}-labels-idx1-ubyte.gz'], data_dir)
    return idx.read(path, dimensions=1).astype(np.int32)

  return Dataset(name=name, classes=len(class_names), class_names=class_names,
                 train_images=images('train'), train_labels=labels('train'),
                 test_images=images('t10k'), test_labels=labels('t10k'))
