"""Data-parallel training on four virtual devices gives what one device gives."""
import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from sparsejax.training import sharding

ROOT = pathlib.Path(__file__).resolve().parents[2]


@functools.cache
def results():
  """What `four_devices.py` found, by name; it runs once."""
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT),
                 'PJRT_NPROC': '16',     # threads; with fewer, collectives can wait for ever
                 'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
  script = pathlib.Path(__file__).with_name('four_devices.py')
  done = subprocess.run([sys.executable, str(script)], env=environment, text=True,
                        capture_output=True, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mlp', 'batch norm', 'sequential'])
def test_a_step_is_that_of_one_device(name):
  assert results()[name] <= 1e-5


@pytest.mark.slow
def test_a_hundred_steps_in_float64_are_those_of_one_device():
  found = results()
  assert found['dtypes'] == ['float64']
  assert found['float64 moved'] > 0.1       # and they have gone somewhere
  assert found['float64'] <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize('devices', [2, 4])
def test_draws_are_those_of_one_device_bit_for_bit(devices):
  found = results()
  assert found[f'draws {devices}']
  # Per example: gates, local noise, dropout by rule. Per batch: gates, weights. Last, nn.Dropout of
  # one unit, kept or not.
  assert found['rows drawn'] == [8, 1, 8, 1, 8, 2]


@pytest.mark.slow
def test_a_device_computes_its_part_of_the_batch_and_gradients_are_all_that_is_sent():
  found = results()
  assert found['batches'] == 0                   # arrays with a side of 52 examples
  assert found['parts'] > 0                      # and of 13
  assert found['images'] == ['13,1,4,4,1']
  assert found['sent'] == ['all-reduce']


@pytest.mark.slow
def test_the_recurrent_state_goes_with_its_texts():
  assert results()['carry'] == [[2, 4], [2, 4]]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mlp', 'sequential'])
def test_the_deployed_network_is_scored_as_on_one_device(name):
  assert results()[f'evaluation {name}'] <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mlp', 'batch norm', 'sequential'])
def test_checkpoints_of_4_devices_are_restored_on_2_then_1_then_4_bit_for_bit(name):
  assert results()[f'{name} restored'] == [True, True, True]


@pytest.mark.parametrize('devices, size, wanted', [(1, 500, 500), (3, 500, 498), (8, 4, 8)])
def test_most_examples_that_devices_can_share(devices, size, wanted):
  assert sharding.multiple_of(devices, size) == wanted


def test_without_a_mesh_nothing_is_touched():
  tree = {'a': np.ones(3)}
  assert sharding.split(None, tree) is tree
  assert sharding.whole(None, tree) is tree
  assert sharding.pinned(None, tree, ()) is tree
  assert sharding.place_state(None, tree, ()) is tree
  assert sharding.gather_state(None, tree) is tree
  assert sharding.devices_of(None) == 1


@pytest.mark.parametrize('members, part, sent, diverged', [
    (4, 1, [], [[0, 1, True]]), (3, 3, ['all-gather'], [])])
def test_members_over_devices_are_what_they_are_alone(members, part, sent, diverged):
  found = results()[f'members {members}']
  assert found.pop('distance') <= 1e-5
  # Each device holds its share, or all of them where they cannot be shared out alike. The one that
  # diverges does so in its first step, and is kept on one device as it was.
  assert found == {'diverged': diverged, 'part': part, 'sent': sent}
