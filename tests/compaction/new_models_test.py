"""How a model of another kind joins in: a residual stream, and a recurrent state."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sparsejax.compaction import Coupling, Read, compact
from sparsejax.compaction.couplings import layer_writes, relu_of

KEY = jax.random.key(0)


class Residual(nn.Module):
  """s = stem(x); s += outer(relu(inner(s))); head(relu(s)): the stream is written twice."""

  stream: int = 6
  hidden: int = 5

  @nn.compact
  def __call__(self, x):
    s = nn.Dense(self.stream, name='stem')(x)
    h = nn.relu(nn.Dense(self.hidden, name='inner')(s))
    s = s + nn.Dense(self.stream, name='outer')(h)
    return nn.Dense(3, name='head')(nn.relu(s))

  def couplings(self, variables, example_shape=None):
    # The two readers meet the stream at different depths: each says what it is handed.
    early = Read('inner/kernel', -2, emits=lambda leaves: leaves['stem/bias'], into='inner/bias')
    late = Read('head/kernel', -2, into='head/bias',
                emits=lambda leaves: np.maximum(leaves['stem/bias'] + leaves['outer/bias'], 0))
    return (
        Coupling('stream', layer_writes('stem') + layer_writes('outer'), (early, late)),
        Coupling('hidden', layer_writes('inner'),
                 (Read('outer/kernel', -2, emits=relu_of('inner/bias'), into='outer/bias'),)),
    )

  def compacted(self, alive, params):
    return self.clone(stream=int(alive['stream'].sum()), hidden=int(alive['hidden'].sum()))


class Recurrent(nn.Module):
  """An LSTM over (B, T, n); its state is no constant even without weights, so nothing is folded."""

  hidden: int = 6

  @nn.compact
  def __call__(self, x):
    states = nn.RNN(nn.LSTMCell(self.hidden, name='cell'), name='rnn')(x)
    return nn.Dense(3, name='head')(states[:, -1])

  def couplings(self, variables, example_shape=None):
    writes = [write for gate in 'ifgo' for write in (*layer_writes(f'cell/i{gate}', bias=False),
                                                    *layer_writes(f'cell/h{gate}'))]
    reads = [Read(f'cell/h{gate}/kernel', -2) for gate in 'ifgo']
    return (Coupling('hidden', tuple(writes), (*reads, Read('head/kernel', -2))),)

  def compacted(self, alive, params):
    return self.clone(hidden=int(alive['hidden'].sum()))


def randomised(model, x):
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, KEY, x)
  return jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), shapes)


def check_same_function(model, variables, result, x):
  before = jax.jit(model.apply)(variables, x)
  after = jax.jit(result.model.apply)(result.variables, x)
  np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * float(np.abs(before).max()))


def test_residual_stream():
  model, x = Residual(), np.random.default_rng(1).standard_normal((7, 4)).astype(np.float32)
  variables = randomised(model, x)
  p = variables['params']
  p['inner']['kernel'][0] = p['head']['kernel'][0] = 0       # stream 0: read by nobody
  p['inner']['kernel'][1] = 0                                # stream 1: the head still reads it
  p['stem']['kernel'][:, 2] = p['outer']['kernel'][:, 2] = 0  # stream 2: a constant
  p['stem']['bias'][2], p['outer']['bias'][2] = 1, 2         # 1 for inner, 3 for head
  p['stem']['kernel'][:, 3] = 0                              # stream 3: outer still writes it
  result = compact(model, variables)
  assert result.kept.units['stream'].tolist() == [1, 3, 4, 5]
  np.testing.assert_allclose(result.kept.added['inner/bias'], 1 * p['inner']['kernel'][2])
  np.testing.assert_allclose(result.kept.added['head/bias'], 3 * p['head']['kernel'][2])
  check_same_function(model, variables, result, x)


def test_recurrent_units_that_read_only_one_another_die():
  model, x = Recurrent(), jnp.ones((2, 5, 4))
  variables = randomised(model, x)
  p = variables['params']
  assert set(p) == {'cell', 'head'}
  p['head']['kernel'][[0, 1, 5]] = 0
  for gate in 'ifgo':
    kernel = p['cell'][f'h{gate}']['kernel']
    kernel[np.ix_([0, 1], [2, 3, 4, 5])] = 0                 # 0 and 1 feed only themselves
    kernel[:, 2] = p['cell'][f'i{gate}']['kernel'][:, 2] = 0   # 2 has no input, but a bias
  result = compact(model, variables)
  assert result.kept.units['hidden'].tolist() == [2, 3, 4, 5]   # 5 feeds 3 and 4
  assert result.kept.notes[0].startswith('hidden: kept units [2] without incoming weights')
  check_same_function(model, variables, result, x)
