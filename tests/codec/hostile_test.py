"""Containers made in bad faith, with a right checksum: refused before they cost memory."""
import copy
import hashlib
import json
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsejax import codec
from sparsejax.codec import envelope

FEW_BYTES = 1 << 22


def parts(tmp_path):
  """Header and streams of a sound file with one leaf of each form."""
  rng = np.random.default_rng(0)
  sparse = np.where(rng.random(3000) < 0.03, rng.standard_normal(3000), 0).astype(np.float32)
  coded = rng.choice(np.float32([1, 2, 4]), 3000, p=[0.8, 0.15, 0.05])
  weights = {'raw': rng.standard_normal(4), 'sparse': sparse, 'coded': coded,
             'steps': np.array(sparse[:900]), 'planes': rng.standard_normal(3000)}
  path = tmp_path / 'sound.sjx'
  codec.write(path, weights, coding={'steps': 'deep_compression'})
  header, streams, _ = envelope.unseal(path)
  return json.loads(header), bytes(streams)


def forge(tmp_path, header, streams):
  """Writes a file whose checksum is right, whatever the header says."""
  data = header if isinstance(header, bytes) else json.dumps(
      header, sort_keys=True, separators=(',', ':'), ensure_ascii=False).encode()
  path = tmp_path / 'forged.sjx'
  path.write_bytes(envelope.seal(data, [streams]))
  return path


def refuse(path, match):
  """The file is refused by name, and no more than a few MB are taken on the way."""
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match=match) as raised:
      codec.read(path)
    assert 'forged.sjx' in str(raised.value)
    assert tracemalloc.get_traced_memory()[1] < FEW_BYTES
  finally:
    tracemalloc.stop()


def test_the_forms_are_those_meant(tmp_path):
  header, streams = parts(tmp_path)
  kinds = {entry['path']: (entry['positions']['kind'], entry['values']['kind'])
           for entry in header['leaves']}
  assert kinds['raw'] == ('all', 'raw')
  assert kinds['sparse'][0] == 'gaps'
  assert kinds['coded'] == ('all', 'codebook')
  assert kinds['steps'][0] == 'relative'
  assert kinds['planes'] == ('all', 'planes')
  assert set(codec.read(forge(tmp_path, header, streams))) == set(kinds)


def leaf(header, path):
  return next(entry for entry in header['leaves'] if entry['path'] == path)


@pytest.mark.parametrize('name, field, value, match', [
    ('coded', 'shape', [1 << 30, 64], 'exceeds 2147483648 entries'),
    ('coded', 'shape', [1 << 30], 'does not fit its'),
    ('sparse', 'shape', [1 << 29], 'does not fit its'),
    ('raw', 'shape', [2**62] * 3, 'between 0 and 2147483648'),
    ('raw', 'shape', [0, 2**31], 'exceeds 2147483648 entries'),
    ('raw', 'shape', [-4], 'between 0 and'),
    ('raw', 'shape', [4.0], 'between 0 and'),
    ('raw', 'shape', [True], 'between 0 and'),
    ('raw', 'shape', [1] * 17, 'at most 16 sizes'),
    ('raw', 'shape', 4, 'at most 16 sizes'),
    ('raw', 'shape', [5], '5 entries of 8 bytes take 40 bytes'),
    ('raw', 'dtype', 'object', "dtype='object' is unknown"),
    ('raw', 'dtype', ['float32'], 'is unknown'),
    ('raw', 'values', {'kind': 'pickle'}, "kind='pickle' is unknown"),
    ('raw', 'values', None, 'is unknown'),
    ('raw', 'positions', {'kind': 'all', 'more': 1}, 'must have the fields kind'),
    ('raw', 'bytes', -1, 'bytes=-1 must be'),
    ('raw', 'bytes', 10**9, 'bytes=1000000000 must be'),
    ('raw', 'offset', 1, 'offset=1 must be'),
    ('raw', 'position_bytes', 99, 'position_bytes=99 must be'),
    ('raw', 'path', '../raw', "path '../raw'"),
    ('raw', 'path', 'a//raw', "path 'a//raw'"),
    ('raw', 'path', '', "path ''"),
    ('raw', 'path', '/raw', "path '/raw'"),
    ('raw', 'path', 'a/./b', "path 'a/./b'"),
    ('raw', 'path', 'a\0b', 'path '),
    ('raw', 'path', 7, "path '7' must be a string"),
    ('raw', 'path', '/'.join('a' * 65), 'must have at most 64 parts'),
    ('raw', 'path', 'a' * 1025, 'at most 1024 characters'),
    ('raw', 'path', 'coded', "path 'coded' is there twice"),
    ('raw', 'path', 'coded/in', "lies inside the leaf 'coded'"),
    ('raw', 'section', 'code', "section='code' is unknown"),
])
def test_leaves_that_no_file_holds(tmp_path, name, field, value, match):
  header, streams = parts(tmp_path)
  leaf(header, name)[field] = value
  refuse(forge(tmp_path, header, streams), match)


@pytest.mark.parametrize('change, match', [
    (lambda h: h.update(extra=1), 'the header must have the fields'),
    (lambda h: h.pop('facts'), 'the header must have the fields'),
    (lambda h: h.update(leaves={}), 'leaves must be a list'),
    (lambda h: h['leaves'].pop(), 'follow the header'),
    (lambda h: h['leaves'].append(h['leaves'][0]), 'offset=0 must be'),
    (lambda h: h['leaves'].insert(0, 3), 'a leaf must have the fields'),
    (lambda h: h['empty'].append('raw'), 'is there twice'),
    (lambda h: h['empty'].append('a/..'), "path 'a/..'"),
    (lambda h: h['empty'].append([]), 'must be a string'),
    (lambda h: h['empty'].append(''), 'said to be empty'),
    (lambda h: h.update(model={'name': 'os.system', 'fields': {}, 'x': 1}), 'model must have'),
    (lambda h: h.update(model='MLP'), 'model must have'),
    (lambda h: h.update(provenance={'a': [1]}), "provenance 'a' is a list"),
    (lambda h: h.update(packed={'p': {'kind': 'LowRank'}}), 'packed weight p must have'),
    (lambda h: h.update(packed={'p': {'kind': 'LowRank', 'shape': [2**15, 2**15],
                                      'dtype': 'float32', 'facts': {}, 'tensors': []}}),
     'would take more than'),
    (lambda h: h.update(packed={'p': {'kind': 'BlockSparse', 'shape': [2, 2], 'dtype': 'float32',
                                      'facts': {'shape': [2**40, 2]}, 'tensors': []}}),
     'says .1099511627776, 2. of itself'),
    (lambda h: h.update(packed={'p': {'kind': 'LowRank', 'shape': [2, 2], 'dtype': 'float32',
                                      'facts': {}, 'tensors': ['u']}}),
     'not those that they name'),
    (lambda h: h.update(packed={'p': {'kind': 'System', 'shape': [2, 2], 'dtype': 'float32',
                                      'facts': {}, 'tensors': []}}), 'make no System weight'),
    (lambda h: h.update(packed={'p': {'kind': 'LowRank', 'shape': [2, 2], 'dtype': 'float32',
                                      'facts': {}, 'tensors': []}}), 'make no LowRank weight'),
])
def test_headers_that_no_file_has(tmp_path, change, match):
  header, streams = parts(tmp_path)
  change(header)
  refuse(forge(tmp_path, header, streams), match)


@pytest.mark.parametrize('text, match', [
    (b'', 'no UTF-8 JSON|Expecting value'),
    (b'{', 'Expecting'),
    (b'\xff\xfe', 'no UTF-8 JSON'),
    (b'[' * 5000 + b']' * 5000, 'nests 5000 levels'),
    (b'{"a":' * 5000 + b'1' + b'}' * 5000, 'nests 5000 levels'),
    (b'{"a":1,"a":1}', 'not in canonical form'),
    (b'{ "a":1}', 'not in canonical form'),
    (b'{"a":NaN}', 'NaN'),
    (b'{"a":"\\ud800"}', 'no UTF-8 JSON'),
    (b'{"a":' + b'9' * 5000 + b'}', 'digits'),
    (b'[]', 'must have the fields'),
    (b'null', 'must have the fields'),
])
def test_headers_that_are_no_canonical_json(tmp_path, text, match):
  refuse(forge(tmp_path, text, b''), match)


@pytest.mark.parametrize('model, match', [
    ({'name': 'os.system', 'fields': {}}, "model 'os.system' is unknown"),
    ({'name': 'MLP', 'fields': {'parent': 1}}, "MLP has no field 'parent'"),
    ({'name': 'MLP', 'fields': {'kept_inputs': {'runs': [0, 1 << 40]}}}, 'no run of indices'),
    ({'name': 'MLP', 'fields': {'kept_inputs': {'runs': []}}}, 'no run of indices'),
    ({'name': 'MLP', 'fields': {'kept_inputs': {'runs': [1]}}}, 'no run of indices'),
    ({'name': 'MLP', 'fields': {'kept_inputs': {'call': 'x'}}}, 'no run of indices'),
    ({'name': 'DeepLSTM', 'fields': {}}, 'cannot be built'),
])
def test_models_that_are_not_listed_or_not_built(tmp_path, model, match):
  header, streams = parts(tmp_path)
  header['model'] = model
  path = forge(tmp_path, header, streams)
  with pytest.raises(ValueError, match=match):
    codec.open(path).model()


def test_a_header_that_unpacks_to_more_than_it_says(tmp_path):
  path = tmp_path / 'forged.sjx'
  bomb = zstandard.ZstdCompressor().compress(b' ' * (1 << 28))
  for length in (1 << 28, 1 << 20):
    prefix = struct.pack('<8sIQQQ', envelope.MAGIC, 1, len(bomb), length, 0)
    path.write_bytes(prefix + hashlib.sha256(prefix + bomb).digest() + bomb)
    refuse(path, 'a header of|in the place of')


def test_a_stream_that_unpacks_to_more_than_it_says(tmp_path):
  bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
  header, _ = parts(tmp_path)
  entry = leaf(header, 'raw')
  entry |= {'values': {'kind': 'zstd'}, 'bytes': len(bomb), 'offset': 0}
  header['leaves'] = [entry]
  refuse(forge(tmp_path, header, bomb), 'in the place of')


NUMBERS = st.one_of(st.integers(-2, 300), st.sampled_from([2**31, 2**40, 2**63, -2**70]),
                    st.none(), st.text(max_size=2), st.booleans(), st.floats(allow_nan=False),
                    st.just([]), st.just({}), st.sampled_from(['raw', 'zstd', 'planes', 'codebook',
                                                              'ans', 'huffman', 'fixed', 'gaps',
                                                              'relative', 'bitmask', 'all']))


def places(node, path=()):
  if isinstance(node, (dict, list)):
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
      yield from places(child, (*path, key))
  else:
    yield path


@settings(max_examples=150, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_reader_survives_any_header_and_any_stream(tmp_path, data):
  """Whatever is forged, a reader gives arrays of the shapes promised or raises ValueError."""
  fuzz(tmp_path, data)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_reader_survives_for_longer(tmp_path, data):
  fuzz(tmp_path, data)


SOUND = {}


def fuzz(tmp_path, data):
  if not SOUND:
    SOUND['parts'] = parts(tmp_path)
  header, streams = copy.deepcopy(SOUND['parts'][0]), bytearray(SOUND['parts'][1])
  for _ in range(data.draw(st.integers(0, 2))):
    *parents, last = data.draw(st.sampled_from(list(places(header))))
    node = header
    for key in parents:
      node = node[key]
    node[last] = data.draw(NUMBERS)
  for _ in range(data.draw(st.integers(0, 2))):
    streams[data.draw(st.integers(0, len(streams) - 1))] = data.draw(st.integers(0, 255))
  path = forge(tmp_path, header, bytes(streams))
  try:
    read = codec.read(path)
  except ValueError as error:
    assert 'forged.sjx' in str(error)
    return
  for entry in header['leaves']:
    if '/' not in entry['path']:
      assert read[entry['path']].shape == tuple(entry['shape'])


@settings(max_examples=60, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300), sealed=st.booleans())
def test_a_reader_survives_any_bytes(tmp_path, body, sealed):
  path = tmp_path / 'forged.sjx'
  path.write_bytes(envelope.seal(body, []) if sealed else body)
  with pytest.raises(ValueError, match='forged.sjx'):
    codec.read(path)


ATHERIS = """
import sys
import atheris
with atheris.instrument_imports(include=['sparsejax.codec']):
  from sparsejax import codec
  from sparsejax.codec import envelope

def one(data):
  with open(sys.argv[1], 'wb') as file:
    file.write(envelope.seal(data, []))
  try:
    codec.read(sys.argv[1])
  except ValueError:
    pass

atheris.Setup(['fuzz', '-max_total_time=30', '-rss_limit_mb=4096'], one)
atheris.Fuzz()
"""


@pytest.mark.slow
def test_coverage_guided_fuzzing(tmp_path):
  """Atheris mutates headers towards new branches for half a minute; it ends its own process."""
  pytest.importorskip('atheris', reason='atheris is not installed (pip install atheris)')
  done = subprocess.run([sys.executable, '-c', ATHERIS, str(tmp_path / 'forged.sjx')],
                        capture_output=True, text=True, timeout=300, cwd=tmp_path)
  assert done.returncode == 0, done.stderr[-2000:]
