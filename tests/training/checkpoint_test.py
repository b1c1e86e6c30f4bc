"""What is restored is, bit for bit, what was saved; anything else is a named error."""
import errno
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.models.lenet import MLP
from sparsejax.training import checkpoint, fit
from sparsejax.training.checkpoint import Checkpoints, named_leaves


def masked_recipe(**changes):
  """Adam with empty states in its chain, a bool mask, and an average."""
  regulariser = sparsejax.partition(
      units=('dense0/kernel', sparsejax.magnitude_pruning(0.5, granularity='column')),
      gates=('head/kernel', sparsejax.l0_hard_concrete(0.1)))
  optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
  recipe = fit.Recipe(MLP(widths=(5,), classes=4), regulariser, optimiser, 44, 10, ema_decay=0.9)
  return recipe._replace(**changes)


def start(recipe, images):
  return jax.jit(lambda key, images: fit.start(recipe, key, images))(jax.random.key(0), images)


@pytest.fixture(scope='module')
def saved(tiny_data, tmp_path_factory):
  """(recipe, its start, the state after an epoch, the folder where it is saved as 1 and as 2)."""
  recipe = masked_recipe()
  before = start(recipe, tiny_data[0])
  state, _ = fit.jit_epoch(recipe)(before, *map(jnp.asarray, tiny_data))
  folder = tmp_path_factory.mktemp('run') / 'checkpoints'
  checkpoints = Checkpoints(folder)
  checkpoints.save(1, state)
  checkpoints.save(2, state)
  checkpoints.close()
  return recipe, before, state, folder


def restore(folder, like):
  checkpoints = Checkpoints(folder)
  try:
    return checkpoints.restore(like)
  finally:
    checkpoints.close()


def assert_bits_equal(a, b):
  a, b = named_leaves(a), named_leaves(b)
  assert list(a) == list(b)
  for name in a:
    assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
    assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name


def test_round_trip_bit_for_bit(saved):
  _, before, state, folder = saved
  epoch, found = restore(folder, before)
  assert epoch == 2
  assert jax.tree.structure(found) == jax.tree.structure(state)
  assert_bits_equal(found, state)
  assert jnp.issubdtype(found.key.dtype, jax.dtypes.prng_key)
  mask = found.method_state['units']['mask']['dense0']['kernel']
  assert mask.dtype == bool and not mask.all()
  assert any('mu/' in name for name in named_leaves(found))


def test_values_that_are_hard_to_keep(saved, tmp_path):
  _, _, state, _ = saved
  odd = jnp.array([-0.0, 1e-45, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
  state = state._replace(params={'free': {'odd': odd, 'half': odd.astype(jnp.bfloat16)}},
                         key=jax.random.key(7, impl='rbg'), average=None)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(0, state)
  epoch, found = checkpoints.restore(jax.tree.map(jnp.zeros_like, state._replace(key=0))._replace(
      key=jax.random.key(0, impl='rbg')))
  checkpoints.close()
  assert epoch == 0
  assert_bits_equal(found, state)


def test_only_the_newest_are_kept(saved, tmp_path):
  checkpoints = Checkpoints(tmp_path, max_to_keep=2)
  assert checkpoints.latest_epoch() is None
  for epoch in (1, 4, 9):
    checkpoints.save(epoch, saved[2])
  assert checkpoints.latest_epoch() == 9
  checkpoints.close()
  assert sorted(int(path.name) for path in tmp_path.iterdir()) == [4, 9]


def test_an_empty_folder_is_a_named_error(saved, tmp_path):
  with pytest.raises(ValueError, match='no checkpoint in .*start without resuming'):
    restore(tmp_path, saved[1])


@pytest.mark.parametrize('changes, seen', [
    ({'model': MLP(widths=(6,), classes=4)}, r'dense0.*\(5,\).*\(6,\)'),
    ({'ema_decay': 0.0}, 'average/'),
    ({'optimiser': optax.sgd(0.1)}, 'optimiser/'),
    ({'regulariser': sparsejax.partition(decay=('.*kernel', sparsejax.weight_decay(1.0)))},
     'decay/'),
])
def test_a_checkpoint_of_another_config_is_a_named_error(saved, tiny_data, changes, seen):
  like = start(masked_recipe(**changes), tiny_data[0])
  with pytest.raises(ValueError, match=seen) as caught:
    restore(saved[3], like)
  message = str(caught.value)
  assert 'the config the checkpoint was written with' in message and len(message) < 700


def test_another_dtype_is_a_named_error(saved):
  _, before, _, folder = saved
  like = before._replace(step=jnp.zeros((), jnp.float32))
  with pytest.raises(ValueError, match=r'step is int32 \(\) there and float32 \(\) here'):
    restore(folder, like)


def files(folder):
  return sorted(path for path in pathlib.Path(folder).rglob('*') if path.is_file())


def first_half(path):
  data = path.read_bytes()
  path.write_bytes(data[:len(data) // 2])


def all_ones(path):
  path.write_bytes(b'\xff' * path.stat().st_size)


def one_bit(path):
  data = bytearray(path.read_bytes())
  if data:
    data[len(data) // 2] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize('damage', [first_half, all_ones, one_bit, pathlib.Path.unlink])
def test_a_damaged_checkpoint_never_passes_for_a_sound_one(saved, tmp_path, damage):
  # Orbax gives a file of its own to an array of this size, and no checksum.
  large = {'free': {'large': np.asarray(jax.random.normal(jax.random.key(1), (64, 64)))}}
  state = saved[1]._replace(params=large, optimiser=(), average=None)
  folder = tmp_path / 'sound'
  checkpoints = Checkpoints(folder)
  checkpoints.save(1, state)
  checkpoints.save(2, state)
  checkpoints.close()
  names = [path.relative_to(folder) for path in files(folder / '2') if path.stat().st_size]
  assert any(name.match('ocdbt.process_0/d/*') for name in names)
  for number, name in enumerate(names):
    copy = tmp_path / str(number)
    shutil.copytree(folder, copy)
    damage(copy / '2' / name.relative_to('2'))
    with pytest.warns(UserWarning) as caught:
      epoch, found = restore(copy, state)
    message = str(caught.pop().message)
    assert message.startswith(f'checkpoint {copy / "2"} is damaged: {name.relative_to("2")}')
    assert message.endswith(f'it is skipped, and {copy / "1"} used in its place')
    assert epoch == 1
    assert_bits_equal(found, state)
    shutil.rmtree(copy / '1')
    with pytest.raises(ValueError, match='none of the checkpoints can be used') as alone:
      restore(copy, state)
    assert f'{copy / "2"} is damaged' in str(alone.value) and len(str(alone.value)) < 700


def killed_while_writing(checkpoints, number, state, moment):
  """Saves up to the moment ('arrays', 'about.json' or 'rename') at which the process is killed."""
  class Killed(BaseException):
    pass

  def kill(*arguments, **options):
    raise Killed

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shutil, 'rmtree', kill)             # nobody tidies up after a SIGKILL
    if moment == 'arrays':
      patch.setattr(checkpoints._orbax, 'save', kill)
    elif moment == 'about.json':
      patch.setattr(checkpoint, 'write_atomically', kill)
    else:
      patch.setattr(checkpoint.os, 'replace', kill)
    with pytest.raises(Killed):
      checkpoints.save(number, state)


@pytest.mark.parametrize('moment', ['arrays', 'about.json', 'rename'])
def test_a_save_that_was_cut_off_leaves_the_checkpoint_before(saved, tmp_path, moment):
  _, before, state, _ = saved
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state)
  killed_while_writing(checkpoints, 2, state, moment)
  again = Checkpoints(tmp_path)
  assert again.numbers() == [1] and restore(tmp_path, before)[0] == 1
  assert sorted(path.name for path in tmp_path.iterdir()) == ['.2.new', '1']   # none goes
  again.save(2, state)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['1', '2']
  assert restore(tmp_path, before)[0] == 2


def test_removing_an_old_one_is_never_half_done(saved, tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path, max_to_keep=1)
  checkpoints.save(1, saved[2])
  remove = shutil.rmtree

  def killed(path, **options):
    if path.name == '.1.old':
      raise KeyboardInterrupt
    remove(path, **options)

  monkeypatch.setattr(shutil, 'rmtree', killed)
  with pytest.raises(KeyboardInterrupt):
    checkpoints.save(2, saved[2])
  assert checkpoints.numbers() == [2]
  monkeypatch.undo()
  checkpoints.save(3, saved[2])
  assert [path.name for path in tmp_path.iterdir()] == ['3']


def test_a_save_removes_what_is_not_of_its_past(saved, tmp_path):
  checkpoints = Checkpoints(tmp_path)
  for number in (2, 4):
    checkpoints.save(number, saved[2])
  checkpoints.save(3, saved[2])
  assert checkpoints.numbers() == [2, 3]
  checkpoints.save(3, saved[1])                            # in place of the one that is there
  assert_bits_equal(checkpoints.load(3, saved[1])[0], saved[1])


def test_notes_come_back_with_the_state(saved, tmp_path):
  checkpoints = Checkpoints(tmp_path)
  losses = np.float32([0.1, 1e-40, 3]).tolist()
  checkpoints.save(7, saved[2], {'losses': losses, 'seconds': 1.5})
  state, notes = checkpoints.load(7, saved[1])
  assert_bits_equal(state, saved[2])
  assert notes == {'losses': losses, 'seconds': 1.5}
  assert np.float32(notes['losses']).tolist() == losses


def test_empty_arrays_come_back_empty(saved, tmp_path):
  state = saved[1]._replace(params={'free': {'none': jnp.zeros((0, 3))}}, optimiser=(),
                            average=None)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state)
  checkpoints.close()
  assert_bits_equal(restore(tmp_path, state)[1], state)


def test_a_full_disk_is_a_clear_error(saved, tmp_path, monkeypatch):
  def full(path, data):
    raise OSError(errno.ENOSPC, 'No space left on device')

  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, saved[2])
  monkeypatch.setattr(checkpoint, 'write_atomically', full)
  with pytest.raises(OSError, match='cannot be written: .*No space left.*run the same command'):
    checkpoints.save(2, saved[2])
  assert [path.name for path in tmp_path.iterdir()] == ['1']       # and no space is taken
  checkpoints.close()
