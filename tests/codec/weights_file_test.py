"""Files of weights: nothing lost, every damage seen, sizes as counted by hand."""
import hashlib
import json
import string

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsejax import codec
from sparsejax.codec import weights_file

DTYPES = ['bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64',
          'float16', 'bfloat16', 'float32', 'float64']


def dtype_named(name):
  return np.dtype(jnp.bfloat16) if name == 'bfloat16' else np.dtype(name)


def assert_same(tree, expected):
  """Same nesting, key by key, and dtype, shape and bytes of each leaf."""
  if isinstance(expected, dict):
    assert isinstance(tree, dict) and set(tree) == set(expected)
    for key, child in expected.items():
      assert_same(tree[key], child)
    return
  expected = np.asarray(expected)
  assert isinstance(tree, np.ndarray) and tree.flags.writeable
  assert (tree.dtype, tree.shape) == (expected.dtype, expected.shape)
  assert tree.tobytes() == expected.tobytes()


def random_leaf(rng, shape, dtype, density):
  """Random bits (any NaN, any sign of zero) with zeros among them."""
  kept = np.asarray(rng.random(shape) < density)
  if dtype == np.bool_:
    return kept
  size = int(np.prod(shape)) * dtype.itemsize
  bits = rng.integers(0, 256, size, dtype=np.uint8).view(dtype).reshape(shape)
  bits[~kept] = 0
  return bits


def sparse_weights():
  kernel = np.zeros((40, 30), np.float32)
  kernel[3, 4], kernel[39, 29], kernel[0, 0], kernel[1, 1] = 1.5, np.nan, -0.0, -np.inf
  return {'params': {'dense0': {'kernel': kernel, 'bias': np.arange(30, dtype=np.float32)}}}


@pytest.mark.parametrize('name', DTYPES)
@pytest.mark.parametrize('density', [0.0, 0.03, 1.0])
def test_every_dtype_comes_back_bit_for_bit(tmp_path, name, density):
  rng = np.random.default_rng(3)
  tree = {'a': {'kernel': random_leaf(rng, (64, 33), dtype_named(name), density)}}
  path = tmp_path / 'w.safetensors'
  assert codec.write(path, tree) == path.stat().st_size
  assert_same(codec.read(path), tree)


def test_negative_zero_nan_payload_and_subnormal_are_not_zero(tmp_path):
  leaf = np.zeros(2000, np.uint32)
  leaf[[1, 5, 9, 1999]] = [0x80000000, 0x7fc12345, 0xffc00001, 1]     # -0.0, two NaNs, subnormal
  tree = {'w': leaf.view(np.float32)}
  path = tmp_path / 'w.safetensors'
  assert codec.write(path, tree) < 1000
  assert_same(codec.read(path), tree)


def test_jax_arrays_scalars_empty_and_transposed_leaves(tmp_path):
  tree = {'a': jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), 'scalar': jnp.float32(3),
          'step': np.int64(7), 'none': np.zeros((0, 4), np.float16), 'empty': {'deep': {}},
          'fortran': np.asfortranarray(np.arange(12.0).reshape(3, 4)), 'naïve "q"\\': np.ones(1)}
  path = tmp_path / 'w.safetensors'
  codec.write(path, tree)
  assert_same(codec.read(path), tree)
  codec.write(path, {})
  assert codec.read(path) == {}


def test_keys_that_look_like_our_own_names_are_ordinary_keys(tmp_path):
  leaf = np.zeros(4000, np.float32)
  tree = {'mask': leaf, 'values': {'mask': leaf + 1}, 'sparsejax': leaf, 'sha256': leaf,
          'a"sparsejax":"{\\"sha256\\":\\"' + '0' * 64 + '\\",': leaf}
  path = tmp_path / 'w.safetensors'
  codec.write(path, tree, sha256='0' * 64, sparsejax='{"sha256":"' + '0' * 64 + '",')
  assert_same(codec.read(path), tree)
  assert codec.read_provenance(path)['sha256'] == '0' * 64


KEYS = st.text(string.ascii_letters + ' .:"\\é', min_size=1, max_size=3)
LEAVES = st.sampled_from(DTYPES).flatmap(lambda name: st.tuples(
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5), st.just(dtype_named(name)),
    st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 1.0])))
TREES = st.recursive(LEAVES, lambda node: st.dictionaries(KEYS, node, max_size=3), max_leaves=6)


def realise(node):
  if isinstance(node, dict):
    return {key: realise(child) for key, child in node.items()}
  shape, dtype, seed, density = node
  return random_leaf(np.random.default_rng(seed), shape, dtype, density)


@settings(max_examples=60, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(node=st.dictionaries(KEYS, TREES, max_size=3))
def test_any_tree_comes_back(tmp_path, node):
  tree = realise(node)
  path = tmp_path / 'w.safetensors'
  codec.write(path, tree)
  assert_same(codec.read(path), tree)


def small_file(tmp_path):
  path = tmp_path / 'small.safetensors'
  kernel = np.zeros(900, np.float16)
  kernel[5] = 2
  codec.write(path, {'a': {'kernel': kernel, 'bias': np.ones(2, np.float32)}}, seed=3)
  return path, path.read_bytes()


def test_every_flipped_bit_of_every_byte_is_seen(tmp_path):
  path, data = small_file(tmp_path)
  assert b'//mask' in data and b'bias' in data           # both forms are in the file
  for place in range(len(data)):
    for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
      broken = bytearray(data)
      broken[place] ^= flip
      path.write_bytes(broken)
      with pytest.raises(ValueError, match='small.safetensors'):
        codec.read(path)
    with pytest.raises(ValueError, match='small.safetensors'):
      codec.read_provenance(path)


def test_every_truncation_and_every_extension_is_seen(tmp_path):
  path, data = small_file(tmp_path)
  for length in range(len(data)):
    path.write_bytes(data[:length])
    with pytest.raises(ValueError, match='small.safetensors'):
      codec.read(path)
  for tail in (b'\0', b' ', data):
    path.write_bytes(data + tail)
    with pytest.raises(ValueError, match='small.safetensors is damaged'):
      codec.read(path)


def test_swapped_bytes_inside_the_header_are_seen(tmp_path):
  path, data = small_file(tmp_path)
  path.write_bytes(data.replace(b'"seed\\":3', b'"seed\\":4'))
  with pytest.raises(ValueError, match='SHA-256'):
    codec.read_provenance(path)


def test_an_unknown_version_is_named(tmp_path):
  path, data = small_file(tmp_path)
  later = data.replace(b'\\"format_version\\":1', b'\\"format_version\\":9')
  digest = data[data.index(b'sha256') + 11:][:64]
  blank = later.replace(digest, b'0' * 64)
  path.write_bytes(later.replace(digest, hashlib.sha256(blank).hexdigest().encode()))
  with pytest.raises(ValueError, match='small.safetensors has format version 9.*reads version 1'):
    codec.read(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
  path = tmp_path / 'other.safetensors'
  path.write_bytes(safetensors.numpy.save({'a': np.ones(3, np.float32)}))
  with pytest.raises(ValueError, match='other.safetensors holds no sparsejax metadata'):
    codec.read(path)
  with pytest.raises(FileNotFoundError, match='gone'):
    codec.read(tmp_path / 'gone')


def test_the_smaller_form_is_taken_and_is_as_small_as_counted_by_hand(tmp_path):
  path = tmp_path / 'w.safetensors'
  size = codec.write(path, sparse_weights())
  data = path.read_bytes()
  header = 8 + int.from_bytes(data[:8], 'little')
  # kernel: 1200 / 8 bytes of mask and 4 values of 4 bytes (-0.0 is one of them); bias: 30 floats.
  assert size - header == 150 + 4 * 4 + 30 * 4
  names = set(json.loads(data[8:header])) - {'__metadata__'}
  assert names == {'params/dense0/kernel//mask', 'params/dense0/kernel//values',
                   'params/dense0/bias'}


@pytest.mark.parametrize('kept', [0, 30, *range(50, 80, 2), 90, 100])
def test_no_form_would_have_been_smaller(tmp_path, monkeypatch, kept):
  leaf = np.zeros(100, np.float32)
  leaf[:kept] = 1
  chosen = codec.write(tmp_path / 'w', {'kernel': leaf})
  sizes = []
  for tensors in (1, 2):                 # dense is one tensor, the bitmask form is two
    with monkeypatch.context() as patch:
      patch.setattr(weights_file, '_stored_bytes',
                    lambda stored, cheap=tensors: 0 if len(stored) == cheap else 10**9)
      sizes.append(codec.write(tmp_path / 'w', {'kernel': leaf}))
    assert (b'//mask' in (tmp_path / 'w').read_bytes()) == (tensors == 2)
  assert chosen <= min(sizes) + 16       # 8 of alignment, and digits of the offsets


def test_same_input_gives_the_same_bytes(tmp_path):
  tree = sparse_weights()
  turned = {'params': {'dense0': dict(reversed(tree['params']['dense0'].items()))}}
  codec.write(tmp_path / 'a', tree, seed=1, commit='x')
  codec.write(tmp_path / 'b', turned, commit='x', seed=1)
  assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


def test_provenance_comes_back_and_is_checked(tmp_path):
  path = tmp_path / 'w'
  given_values = {'commit': 'abc "é" /', 'seed': 3, 'error_percent': 1.25, 'path_': 'x'}
  codec.write(path, sparse_weights(), **given_values)
  assert codec.read_provenance(path) == given_values
  assert isinstance(codec.read_provenance(path)['seed'], int)
  with pytest.raises(ValueError, match="provenance 'x' is a list"):
    codec.write(path, {}, x=[1])
  with pytest.raises(ValueError, match="provenance 'x' is nan"):
    codec.write(path, {}, x=float('nan'))


def test_refusals_name_the_folder_and_the_key_and_leave_no_file(tmp_path):
  with pytest.raises(ValueError, match='its folder .*gone does not exist'):
    codec.write(tmp_path / 'gone' / 'w', {})
  with pytest.raises(ValueError, match='__metadata__'):
    codec.write(tmp_path / 'w', {'__metadata__': np.ones(1)})
  with pytest.raises(ValueError, match="'b/c'"):
    codec.write(tmp_path / 'w', {'b/c': np.ones(1)})
  assert list(tmp_path.iterdir()) == []


def test_float32_bytes_is_the_size_of_the_plain_file(tmp_path):
  tree = {'a': {'kernel': jnp.zeros((7, 5), jnp.bfloat16)}, 'n': np.ones(3, np.int8)}
  path = tmp_path / 'plain'
  safetensors.numpy.save_file({'a/kernel': np.zeros((7, 5), np.float32),
                               'n': np.ones(3, np.float32)}, path)
  assert codec.float32_bytes(tree) == path.stat().st_size
