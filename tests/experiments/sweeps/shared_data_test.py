"""One array for all members against the data each would have alone."""
import numpy as np
import pytest

from experiments.configs.digits import l0_mlp
from experiments.data import load
from experiments.sweeps.shared_data import own_images, shared_data


def configs(seeds, **changes):
  made = []
  for seed in seeds:
    made.append(l0_mlp.get_config())
    made[-1].update({'seed': seed, **changes})
  return made


@pytest.mark.parametrize('seeds', [(0, 0), (0, 3)])
@pytest.mark.parametrize('changes', [{}, {'training_examples': 77}, {'validation_examples': 0}])
def test_rows_are_the_data_of_each(seeds, changes):
  made = configs(seeds, **changes)
  found = shared_data(made)
  shared = seeds == (0, 0) or changes.get('validation_examples') == 0
  assert (found.rows is None) == (found.watched_rows is None) == shared
  for index, config in enumerate(made):
    alone = load(config)
    rows = slice(None) if found.rows is None else found.rows[index]
    watched = slice(None) if found.watched_rows is None else found.watched_rows[index]
    np.testing.assert_array_equal(found.images[rows], alone.images)
    np.testing.assert_array_equal(found.labels[rows], alone.labels)
    np.testing.assert_array_equal(found.watched_images[watched], alone.watched_images)
    np.testing.assert_array_equal(found.watched_labels[watched], alone.watched_labels)
    np.testing.assert_array_equal(own_images(found, index), alone.images)
    assert found.names == alone.names
