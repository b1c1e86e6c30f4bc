"""How processes find each other, and what they say where they do not."""
import contextlib
import socket

import pytest

from experiments import processes


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
