"""Containers: nothing lost, every damage seen, packed weights and models as they were."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsejax import BlockSparse, LowRank, codec
from sparsejax.codec import container, leaf
from sparsejax.models import MLP

DTYPES = ['bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64',
          'float16', 'bfloat16', 'float32', 'float64']
CODINGS = ['smallest', 'ans', 'huffman', 'deep_compression', 'raw']


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


def random_leaf(rng, shape, dtype, density, distinct):
  """Random bits (any NaN, any sign of zero), zeros among them, of few or of many values."""
  kept = np.asarray(rng.random(shape) < density)
  if dtype == np.bool_:
    return kept
  book = rng.integers(0, 256, distinct * dtype.itemsize, dtype=np.uint8).view(dtype)
  drawn = np.asarray(book[rng.integers(0, distinct, shape)])
  drawn[~kept] = 0
  return drawn


@pytest.mark.parametrize('coding', CODINGS)
@pytest.mark.parametrize('name', DTYPES)
def test_every_dtype_comes_back_bit_for_bit(tmp_path, name, coding):
  rng = np.random.default_rng(3)
  tree = {f'{density}': {str(distinct): random_leaf(rng, (40, 13), dtype_named(name), density,
                                                    distinct) for distinct in (1, 6, 3000)}
          for density in (0.0, 0.03, 0.5, 1.0)}
  path = tmp_path / 'w.sjx'
  assert codec.write(path, tree, coding=coding) == path.stat().st_size
  assert_same(codec.read(path), tree)


def test_negative_zero_nan_payload_and_subnormal_are_not_zero(tmp_path):
  numbers = np.zeros(2000, np.uint32)
  numbers[[1, 5, 9, 1999]] = [0x80000000, 0x7fc12345, 0xffc00001, 1]     # -0.0, two NaNs, subnormal
  tree = {'w': numbers.view(np.float32)}
  path = tmp_path / 'w.sjx'
  assert codec.write(path, tree) < 400
  assert_same(codec.read(path), tree)


def test_jax_arrays_scalars_empty_and_transposed_leaves(tmp_path):
  tree = {'a': jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), 'scalar': jnp.float32(3),
          'step': np.int64(7), 'none': np.zeros((0, 4), np.float16), 'empty': {'deep': {}},
          'fortran': np.asfortranarray(np.arange(12.0).reshape(3, 4)), 'naïve "q"\\': np.ones(1)}
  path = tmp_path / 'w.sjx'
  codec.write(path, tree)
  assert_same(codec.read(path), tree)
  codec.write(path, {})
  assert codec.read(path) == {}


KEYS = st.text('abcé "\\:', min_size=1, max_size=3)
LEAVES = st.tuples(
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7), st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([1, 4, 1000]))
TREES = st.recursive(LEAVES, lambda node: st.dictionaries(KEYS, node, max_size=3), max_leaves=5)


def realise(node):
  if isinstance(node, dict):
    return {key: realise(child) for key, child in node.items()}
  shape, name, seed, density, distinct = node
  return random_leaf(np.random.default_rng(seed), shape, dtype_named(name), density, distinct)


@settings(max_examples=60, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(node=st.dictionaries(KEYS, TREES, max_size=3), coding=st.sampled_from(CODINGS))
def test_any_tree_comes_back(tmp_path, node, coding):
  tree = realise(node)
  path = tmp_path / 'w.sjx'
  codec.write(path, tree, coding=coding)
  assert_same(codec.read(path), tree)


def test_same_input_same_bytes_whatever_the_order_of_keys(tmp_path):
  one, two = tmp_path / 'one.sjx', tmp_path / 'two.sjx'
  codec.write(one, {'a': np.ones(3), 'b': {'c': np.zeros(2), 'd': np.ones(1)}}, x=1, y=2)
  codec.write(two, {'b': {'d': np.ones(1), 'c': np.zeros(2)}, 'a': np.ones(3)}, y=2, x=1)
  assert one.read_bytes() == two.read_bytes()


def test_leaves_are_read_one_by_one(tmp_path):
  path = tmp_path / 'w.sjx'
  tree = {'a': {'kernel': np.eye(9, dtype=np.float32)}, 'b': np.arange(5)}
  codec.write(path, tree, seed=4)
  file = codec.open(path)
  assert file.paths() == ('a/kernel', 'b')
  np.testing.assert_array_equal(file.leaf('b'), tree['b'])
  assert file.provenance() == codec.read_provenance(path) == {'seed': 4}
  with pytest.raises(ValueError, match="no leaf 'c'; it has a/kernel, b"):
    file.leaf('c')


def test_packed_weights_come_back_as_they_were_or_dense(tmp_path):
  rng = np.random.default_rng(0)
  mask = rng.random((8, 12)) < 0.2
  mask[:, 3] = False
  kernel = rng.standard_normal((60, 96)).astype(np.float32)
  block = BlockSparse.from_dense(kernel, 8, mask=mask, pad=True, capacity=60)
  low = LowRank(rng.standard_normal((5, 2)).astype(np.float32), np.ones((2, 4), np.float32))
  path = tmp_path / 'w.sjx'
  codec.write(path, {'a': {'kernel': block, 'bias': np.zeros(96)}, 'b': {'kernel': low}})
  read = codec.read(path)
  assert isinstance(read['a']['kernel'], BlockSparse) and isinstance(read['b']['kernel'], LowRank)
  np.testing.assert_array_equal(read['a']['kernel'].mask(), mask)
  dense = codec.read(path, structured=False)
  assert_same(dense, {'a': {'kernel': np.asarray(block.to_dense()), 'bias': np.zeros(96)},
                      'b': {'kernel': np.asarray(low.to_dense())}})


def network(widths=(6, 4), kept=tuple(range(3, 50))):
  model = MLP(widths, kept_inputs=kept)
  variables = jax.device_get(model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)))
  return model, variables


def test_a_network_comes_back_from_the_file_alone(tmp_path):
  model, variables = network()
  facts = {'scale': 1 / 16, 'mean': np.arange(64, dtype=np.float32).reshape(8, 8, 1),
           'input_shape': [8, 8, 1]}
  path = tmp_path / 'net.sjx'
  codec.write(path, variables, model=model, facts=facts)
  loaded = codec.read_model(path)
  assert loaded.model == model
  assert_same(loaded.variables, variables)
  assert loaded.facts['scale'] == 1 / 16
  np.testing.assert_array_equal(loaded.facts['mean'], facts['mean'])
  x = np.ones((2, 8, 8, 1), np.float32)
  np.testing.assert_array_equal(loaded.model.apply(loaded.variables, x), model.apply(variables, x))


def test_weights_of_another_network_are_refused(tmp_path):
  _, variables = network()
  path = tmp_path / 'net.sjx'
  codec.write(path, variables, model=MLP((7, 4)), facts={'input_shape': [8, 8, 1]})
  with pytest.raises(ValueError, match='dense0/bias has shape .6,. in the file, .* wants .7,.'):
    codec.read_model(path)
  codec.write(path, variables)
  with pytest.raises(ValueError, match='names no model'):
    codec.read_model(path)


def test_learned_probabilities_code_the_leaf(tmp_path):
  rng = np.random.default_rng(0)
  book, shares = np.float32([0, -1.5, 2]), np.array([0.9, 0.04, 0.06])
  weights = rng.choice(book, 30_000, p=shares)
  path = tmp_path / 'w.sjx'
  codec.write(path, {'w': weights}, probabilities={'w': (book, shares)})
  assert_same(codec.read(path), {'w': weights})
  bits = -sum(np.log2(p) * np.count_nonzero(weights == v) for v, p in zip(book, shares))
  coded = codec.open(path).header['leaves'][0]['bytes']
  # 3 values of 32 bits, two frequencies of at most 20 bits, less than two words of the coder's end.
  assert bits <= 8 * coded <= 1.0005 * bits + 3 * 32 + 2 * 20 + 64
  with pytest.raises(ValueError, match='w: a weight is none of the 2 values'):
    codec.write(path, {'w': weights}, probabilities={'w': (book[1:], [0.5, 0.5])})


def small_file(tmp_path):
  path = tmp_path / 'small.sjx'
  kernel = np.zeros(90, np.float16)
  kernel[5] = 2
  codec.write(path, {'a': {'kernel': kernel, 'bias': np.ones(2, np.float32)}}, seed=3)
  return path, path.read_bytes()


def test_every_flipped_byte_is_seen(tmp_path):
  path, data = small_file(tmp_path)
  for place in range(len(data)):
    for flip in (1, 128, 255):
      broken = bytearray(data)
      broken[place] ^= flip
      path.write_bytes(broken)
      with pytest.raises(ValueError, match='small.sjx is damaged'):
        codec.read(path)


def test_every_truncation_and_every_extension_is_seen(tmp_path):
  path, data = small_file(tmp_path)
  for length in range(len(data)):
    path.write_bytes(data[:length])
    with pytest.raises(ValueError, match='small.sjx is damaged'):
      codec.open(path)
  for tail in (b'\0', b' ', data):
    path.write_bytes(data + tail)
    with pytest.raises(ValueError, match='small.sjx is damaged'):
      codec.open(path)


def test_zeros_beyond_what_a_reader_trusts_are_written_as_a_bitmask(tmp_path, monkeypatch):
  monkeypatch.setattr(leaf, 'ALLOWANCE', 5000)
  monkeypatch.setattr(leaf, 'MAX_EXPANSION', {kind: 64 for kind in leaf.MAX_EXPANSION} | {'raw': 1})
  path = tmp_path / 'w.sjx'
  tree = {'a': np.zeros(1000, np.float32), 'b': np.zeros(1000, np.float32)}
  codec.write(path, tree)
  kinds = [entry['positions']['kind'] for entry in codec.open(path).header['leaves']]
  assert kinds == ['gaps', 'bitmask']                  # 4000 bytes of 5000, then 1000 are left
  assert_same(codec.read(path), tree)


def test_a_missing_file_and_a_missing_folder(tmp_path):
  with pytest.raises(FileNotFoundError):
    codec.read(tmp_path / 'none.sjx')
  with pytest.raises(ValueError, match='folder .* does not exist'):
    codec.write(tmp_path / 'no' / 'w.sjx', {'a': np.ones(1)})


@pytest.mark.parametrize('weights, options, match', [
    ({'a': 1.0}, {}, 'a is a float'),
    ({'a': {'..': np.ones(1)}}, {}, "path 'a/..'"),
    ({'a': np.ones(1)}, {'coding': 'best'}, "coding='best' is unknown"),
    ({'a': np.ones(1)}, {'coding': {'b': 'raw'}}, "no leaf 'b' to code"),
    ({'a': np.ones(1)}, {'facts': {'f': {1, 2}}}, 'facts must be JSON'),
    ({'a': np.ones(1)}, {'model': object()}, 'is not one of the networks'),
    ({'a': np.ones(1)}, {'loss': float('nan')}, "provenance 'loss' is nan"),
])
def test_what_a_container_cannot_hold_is_named(tmp_path, weights, options, match):
  with pytest.raises(ValueError, match=match):
    codec.write(tmp_path / 'w.sjx', weights, **options)
  assert not (tmp_path / 'w.sjx').exists()


def test_only_a_container_takes_a_model(tmp_path):
  with pytest.raises(ValueError, match='only a container holds coding; name it .*.sjx'):
    codec.write(tmp_path / 'w.safetensors', {'a': np.ones(1)}, coding='raw')
  assert container.EXTENSION == '.sjx'
