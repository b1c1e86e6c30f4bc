"""A made-up image set and recipes small enough to compile in a moment."""
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.models.lenet import MLP
from sparsejax.training.fit import Recipe


@pytest.fixture(scope='session')
def tiny_data():
  """44 uint8 images (3, 3, 1) of 4 classes; a class is bright in its own row or column."""
  rng = np.random.default_rng(5)
  labels = rng.integers(0, 4, 44).astype(np.int32)
  images = rng.integers(0, 80, (44, 3, 3, 1))
  for image, label in zip(images, labels, strict=True):
    image[(slice(None), label - 2) if label >= 2 else label] += 150
  return images.astype(np.uint8), labels


@pytest.fixture(scope='session')
def tiny_recipe():
  """Returns a function: fields of a Recipe to replace -> an MLP with gates on every kernel."""
  def build(**changes):
    regulariser = sparsejax.partition(
        gates=('.*kernel', sparsejax.l0_hard_concrete(0.05, drop_rate=0.3)))
    recipe = Recipe(MLP(widths=(5,), classes=4), regulariser, optax.adam(1e-2), num_terms=44,
                    batch_size=10)
    return recipe._replace(**changes)
  return build
