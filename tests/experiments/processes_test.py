"""How processes find each other, and what they say where they do not."""
import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from benchmarks.data_parallel import free_port
from experiments import processes
from sparsejax.training.metrics import read_metrics

CONFIG = 'experiments/configs/digits/l0_mlp.py:smoke'


def connect(*arguments, environment=None, **changes):
  processes.connect(*arguments, environment=environment or {}, **changes)


@contextlib.contextmanager
def listening(family=socket.AF_INET, host='localhost'):
  with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as server:
    server.bind((host, 0))
    server.listen()
    yield server.getsockname()[1]


def test_without_flags_and_variables_a_process_is_alone():
  connect()


@pytest.mark.parametrize('given, message', [
    ({'coordinator': 'localhost:1'}, r'--num_processes \(JAX_NUM_PROCESSES\), --process_id '
                                     r'\(JAX_PROCESS_ID\) missing'),
    ({'num_processes': 2, 'process_id': 0}, r'--coordinator \(JAX_COORDINATOR_ADDRESS\) missing'),
    ({'environment': {'JAX_PROCESS_ID': '1'}}, r'--coordinator .*, --num_processes .* missing'),
])
def test_what_is_missing_is_named(given, message):
  with pytest.raises(ValueError, match=message):
    connect(**given)


def test_what_takes_one_process_says_so():
  processes.require_alone('--dry_run', environment={})
  with pytest.raises(ValueError, match=r'^--dry_run is a matter of one process: leave out '
                     r'--process_id \(JAX_PROCESS_ID\); --mesh=data:2 then means two devices'):
    processes.require_alone('--dry_run', environment={'JAX_PROCESS_ID': '0'})


@pytest.mark.parametrize('address', ['localhost', ':4000', 'localhost:', 'host:99999', 'host:x'])
def test_an_address_is_a_host_and_a_port(address):
  with pytest.raises(ValueError, match=f'^--coordinator={address} must be host:port, such as'):
    connect(address, 2, 0)


def test_numbers_of_processes_count_from_0():
  with pytest.raises(ValueError, match='^--process_id=2 must lie below --num_processes=2'):
    connect('localhost:4000', 2, 2)
  with pytest.raises(ValueError, match='^--num_processes=two must be a whole number'):
    connect(environment={'JAX_COORDINATOR_ADDRESS': 'localhost:4000', 'JAX_NUM_PROCESSES': 'two',
                         'JAX_PROCESS_ID': '0'})


@pytest.mark.parametrize('family, host', [(socket.AF_INET, 'localhost'), (socket.AF_INET, ''),
                                          (socket.AF_INET6, '::')])
def test_a_port_in_use_is_named_with_the_repair(family, host):
  try:
    server = listening(family, host)
    port = server.__enter__()
  except OSError:
    pytest.skip('no IPv6 on this machine')
  with contextlib.ExitStack() as stack:
    stack.push(server)
    with pytest.raises(ValueError) as error:
      connect(f'localhost:{port}', 2, 0)
  assert str(error.value).startswith(
      f'port {port} of --coordinator=localhost:{port} is in use by another process; give all '
      'processes of the run another port, or end that process')


def test_a_process_0_that_does_not_answer_is_named():
  with listening() as port:
    pass                                      # nobody listens there any more
  with pytest.raises(ValueError, match=rf'^nobody answered at --coordinator=localhost:{port} '
                     r'within 0.2 s \(Connection refused\); start process 0'):
    connect(f'localhost:{port}', 2, 1, seconds=0.2)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """What each of two processes found, see `two_processes.py`."""
  folder = tmp_path_factory.mktemp('two')
  done = subprocess.run([sys.executable, '-m', 'tests.experiments.two_processes', str(folder)],
                        text=True, capture_output=True, timeout=300, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_two_processes_train_what_one_device_trains(two):
  assert two[0]['distance'] <= 1e-5 and two[0]['moved'] > 1e-2
  assert two[0]['sheet'] == two[1]['sheet']
  assert two[0]['sheet']['device'].startswith('cpu: 2 x ')
  assert two[0]['one'] == two[1]['one']
  for name, value in two[0]['one'].items():
    assert name == 'seconds' or two[0]['two'][name] == pytest.approx(value, rel=1e-5)


def test_a_state_that_is_split_over_processes_comes_home_whole(two):
  assert [found['carried'] for found in two] == [True, True]


def test_processes_that_differ_are_told_so(two):
  for found in two:
    assert found['other config'] == (
        'ValueError: process 1 has another config than process 0; start all 2 processes with the '
        'same flags, code and data')


def test_an_error_of_the_first_process_is_that_of_all(two):
  assert two[0]['not a folder'].startswith('OSError: workdir ')
  assert two[1]['not a folder'] == two[0]['not a folder'].replace(': workdir',
                                                                   ': process 0: workdir')


def test_a_signal_to_one_process_stops_all_and_they_go_on_together(two):
  assert two[0]['stopped'] == two[1]['stopped']
  code, text = two[0]['stopped']
  assert code == 143
  assert text.startswith('stopped by SIGTERM; the state after 1 of 4 steps of epoch 1 is kept in ')
  assert two[0]['text'].startswith('Going on after epoch 0 and 1 of 4 steps')
  assert two[1]['text'] == ''


def start(workdir, port=None, process=None, devices=2, **environment):
  """Starts the command; its output is kept in files."""
  flags = [] if port is None else [f'--coordinator=localhost:{port}', '--num_processes=2',
                                   f'--process_id={process}']
  return subprocess.Popen(
      [sys.executable, '-m', 'experiments.train', f'--config={CONFIG}', f'--workdir={workdir}',
       '--config.epochs=40', '--config.checkpoint_every=10', '--config.batch_size=48',
       f'--mesh=data:{devices}', *flags],
      env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow                  # four processes one after the other, each compiling its program
@pytest.mark.parametrize('victim', [0, 1])
def test_the_command_goes_on_from_two_processes_to_four_devices(tmp_path, victim):
  port = free_port()
  both = [start(tmp_path / 'run', port, process) for process in (0, 1)]
  while not (tmp_path / 'run' / 'checkpoints' / '10').exists():
    assert both[0].poll() is None, both[0].communicate()
    time.sleep(0.05)
  both[victim].kill()                           # the other one ends by itself, and says why
  _, error = both[1 - victim].communicate(timeout=60)
  assert both[1 - victim].returncode not in (0, None)
  assert 'another process of this run has ended' in error or 'another task died' in error
  both[victim].communicate()

  with listening() as taken:
    refused = start(tmp_path / 'run', taken, 0)
    _, error = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert error.startswith(f'error: port {taken} of --coordinator=localhost:{taken} is in use')

  last = start(tmp_path / 'run', devices=4, JAX_NUM_CPU_DEVICES='4')
  out, error = last.communicate(timeout=120)
  assert last.returncode == 0, error[-3000:]
  assert out.startswith('Going on after epoch ')
  assert json.loads((tmp_path / 'run' / 'ledger.json').read_text())['device'].startswith('cpu: 4')
  assert len(read_metrics(tmp_path / 'run' / 'metrics.jsonl')) == 40
