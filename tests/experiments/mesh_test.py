"""What --mesh asks for, and how it is refused. Computing on it: training/sharding_test.py."""
import jax
import numpy as np
import pytest

from experiments import mesh


def test_a_mesh_is_an_axis_and_a_number_of_devices():
  assert mesh.parse('data:2') == 2
  assert mesh.parse(' data:16 ') == 16


@pytest.mark.parametrize('text, message', [
    ('data', "--mesh='data' must name the axis and the number of devices, such as --mesh=data:2"),
    ('data:two', "--mesh='data:two' must name"),
    ('data:-1', "--mesh='data:-1' must name"),
    ('data:2,model:2', "--mesh='data:2,model:2' must name"),
    ('model:4', "--mesh='model:4' splits over 'model', but examples are all that can be split; "
                'write --mesh=data:4'),
    ('data:0', "--mesh='data:0' asks for no device"),
])
def test_anything_else_is_refused_with_what_was_seen(text, message):
  with pytest.raises(ValueError) as error:
    mesh.parse(text)
  assert str(error.value).startswith(message)


def test_more_devices_than_there_are():
  assert jax.device_count() == 1
  with pytest.raises(ValueError, match=r'^--mesh=data:4 asks for 4 devices, but this process has 1 '
                     r'\(cpu\); ask for 1, set JAX_NUM_CPU_DEVICES=4 for as many virtual devices'):
    mesh.open_devices('data:4', 100)


@pytest.mark.parametrize('batch_size, instead', [(100, 99), (2, 3)])
def test_a_batch_that_devices_cannot_share_alike(batch_size, instead):
  with pytest.raises(ValueError, match=rf'^config.batch_size={batch_size} cannot be shared alike '
                     rf'by the 3 devices of --mesh=data:3; set --config.batch_size={instead}$'):
    mesh.open_devices('data:3', batch_size)


def test_a_batch_need_not_be_shared_where_members_are():
  with pytest.raises(ValueError, match='^--mesh=data:3 asks for 3 devices, but this process has 1'):
    mesh.open_devices('data:3')


def test_the_ledger_says_which_devices_it_was():
  assert mesh.ONE.ledger_keys() == {}
  devices = mesh.Devices(jax.sharding.Mesh(np.array(jax.devices()), ('data',)), 1, 2)
  assert devices.ledger_keys() == {'mesh': 'data:1', 'mesh_processes': 2}


@pytest.mark.parametrize('text', [None, 'data:1'])
def test_one_device_is_a_plain_run(text):
  assert mesh.open_devices(text, 7) is mesh.ONE
  assert mesh.ONE.mesh is None and mesh.ONE.first


def test_one_process_agrees_with_itself():
  assert mesh.ONE.agree(lambda: {'a': 1}) == {'a': 1}
  assert mesh.ONE.largest(3, 0) == (3, 0)
  mesh.ONE.require_same({'config': 'any'})
  state = object()
  assert mesh.ONE.agree_state(state) is state
  assert mesh.ONE.place_state(state) is state
  assert mesh.ONE.gather_state(state) is state
  np.testing.assert_array_equal(mesh.ONE.place(np.arange(3)), [0, 1, 2])


def test_all_but_the_first_process_are_silent(capsys):
  for process in (0, 1):
    mesh.Devices(None, process, 2).console().print(f'process {process}')
  assert capsys.readouterr().out.strip() == 'process 0'
