"""What a dry run tells, against a network counted by hand; and that it leaves nothing."""
import io
import re

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import dry_run, run
from experiments.evidence.configs import load_config
from experiments.mesh import ONE, Devices


def told(config, devices=ONE):
  console = Console(file=io.StringIO(), width=140)
  dry_run.dry_run(config, console, devices)
  return console.file.getvalue()


@pytest.fixture(scope='module')
def text():
  config = load_config('digits/l0_mlp:smoke')
  config.model.widths = (20,)
  return told(config)


def test_leaves_are_told_with_their_rules(text):
  assert re.search(r'dense0/kernel +│ 64 x 20 +│ +1,280 │ gates +│ l0_hard_concrete', text)
  assert re.search(r'head/bias +│ 10 +│ +10 │ free +│ plain training', text)


def test_sizes_are_those_counted_by_hand(text):
  weights, biases, gates = 64 * 20 + 20 * 10, 30, 64 + 20
  assert (f'Parameters of the network: {weights + biases:,} (of which {weights:,} weights of '
          f'linear layers), {4 * (weights + biases):,} bytes of float32; trained by the optimiser: '
          f'{weights + biases + gates:,}') in text
  assert f'Operations of one example, dense: {2 * weights:,} flops' in text


def test_the_resolved_config_memory_and_time_are_told(text):
  assert '"widths": [\n      20\n' in text
  assert re.search(r'Memory of the training program: \d+ MiB', text)
  assert re.search(r'Time: [\d.]+ ms a step .* so \d+ s of training after \d+ s', text)
  assert text.endswith('Nothing was trained and nothing written.\n')


def test_what_a_run_refuses_a_dry_run_refuses(tmp_path):
  config = load_config('digits/l0_mlp:smoke')
  config.regulariser.gates.leaves = '.*kernl'
  with pytest.raises(ValueError, match='matches no parameter') as dry:
    told(config)
  with pytest.raises(ValueError, match='matches no parameter') as real:
    run.run(config, tmp_path / 'run', 'test', Console(file=io.StringIO()))
  assert str(dry.value) == str(real.value)


@pytest.mark.slow               # the program compiled once more
def test_devices_of_a_mesh_are_told():
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
  found = told(load_config('digits/l0_mlp:smoke'), Devices(mesh))
  assert re.search(r'Memory on each of 1 devices of the training program: \d+ MiB', found)
  assert re.search(r'ms a step \(of 20 steps on 1 devices, \S+\)', found)


@pytest.mark.slow
def test_packed_weights_are_counted_dense():
  found = told(load_config('GrRK00/wide_mlp:smoke'))
  entries = 64 * 128 + 128 * 128 + 128 * 10 + 128 + 128 + 10
  assert f'Parameters of the network: {entries:,} ' in found
