"""Layers of the papers by name: thin faces, without formulas of their own.

Each takes the stock layer's arguments and those of the method, and is `Regularised(stock layer,
partition(...))`. Any other pairing of layer and method needs no class: write it so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sparsejax.nn.regularised import RegularisedModule
from sparsejax.regulariser import Number, Regulariser, partition
from sparsejax.regularisers import hard_concrete
from sparsejax.regularisers.bayesian_rnn import bayesian_rnn
from sparsejax.regularisers.hard_concrete import l0_hard_concrete
from sparsejax.regularisers.variational_dropout import sparse_variational_dropout

Array = jax.Array
Initializer = Callable[..., Array]


class _Dense(RegularisedModule):
  """The arguments of nn.Dense."""

  features: int
  use_bias: bool = True
  dtype: Any = None
  param_dtype: Any = jnp.float32
  precision: Any = None
  kernel_init: Initializer = nn.linear.default_kernel_init
  bias_init: Initializer = nn.initializers.zeros_init()

  @nn.nowrap
  def stock(self) -> nn.Dense:
    return _copy_of(nn.Dense, self)


class _Conv(RegularisedModule):
  """The arguments of nn.Conv."""

  features: int
  kernel_size: int | Sequence[int]
  strides: int | Sequence[int] | None = 1
  padding: Any = 'SAME'
  input_dilation: int | Sequence[int] | None = 1
  kernel_dilation: int | Sequence[int] | None = 1
  feature_group_count: int = 1
  use_bias: bool = True
  mask: Array | None = None
  dtype: Any = None
  param_dtype: Any = jnp.float32
  precision: Any = None
  kernel_init: Initializer = nn.linear.default_kernel_init
  bias_init: Initializer = nn.initializers.zeros_init()

  @nn.nowrap
  def stock(self) -> nn.Conv:
    return _copy_of(nn.Conv, self)


class _L0(RegularisedModule, kw_only=True):
  """The arguments of l0_hard_concrete."""

  strength: Number
  per: str = 'batch'
  l2: Number = 0.0
  drop_rate: float = 0.5
  beta: Number = hard_concrete.BETA
  gamma: float = hard_concrete.GAMMA
  zeta: float = hard_concrete.ZETA
  clamp: tuple[float, float] | None = (1e-2, 1e2)

  @nn.nowrap
  def gates(self, **placement: Any) -> Regulariser:
    return l0_hard_concrete(**_arguments(_L0, self), **placement)


class _SparseVD(RegularisedModule, kw_only=True):
  """The arguments of sparse_variational_dropout."""

  strength: Number = 1.0
  noise: str = 'local'
  kl: str = 'approximation'
  threshold: Number = 3.0
  init_log_sigma2: float = -10.0
  clip: float | None = 8.0
  clip_variance: bool = False

  @nn.nowrap
  def posterior(self) -> Regulariser:
    return partition(posterior=(
        'kernel', sparse_variational_dropout(**_arguments(_SparseVD, self))))


class _LSTM(RegularisedModule):
  """The arguments of nn.LSTMCell."""

  features: int
  gate_fn: Callable[..., Any] = nn.sigmoid
  activation_fn: Callable[..., Any] = nn.tanh
  kernel_init: Initializer = nn.linear.default_kernel_init
  recurrent_kernel_init: Initializer = nn.initializers.orthogonal()
  bias_init: Initializer = nn.initializers.zeros_init()
  dtype: Any = None
  param_dtype: Any = jnp.float32
  carry_init: Initializer = nn.initializers.zeros_init()


class _BayesianRNN(RegularisedModule, kw_only=True):
  """The arguments of bayesian_rnn that concern the cell."""

  strength: Number = 1.0
  groups: Sequence[str] = ('inputs', 'hidden', 'gates')
  kl: str = 'approximation'
  threshold: Number = 3.0
  clip: float | None = 8.0
  init_log_sigma: float = -3.0


class L0Dense(_Dense, _L0):
  """nn.Dense with one hard-concrete gate per input unit; the bias is plain.

  Louizos, Welling, Kingma, 2018, arXiv:1712.01312. Arguments: those of nn.Dense, then by keyword
  those of `l0_hard_concrete`, of which `strength` has no default. The functional form is
  partition(gates=('kernel', l0_hard_concrete(strength, axis=-2, ...))).
  """

  @nn.nowrap
  def parts(self) -> tuple[nn.Module, Regulariser]:
    return self.stock(), partition(gates=('kernel', self.gates(axis=-2)))


class L0Conv(_Conv, _L0):
  """nn.Conv with one hard-concrete gate per filter, which kernel and bias share.

  Louizos, Welling, Kingma, 2018, arXiv:1712.01312. Arguments: those of nn.Conv, then by keyword
  those of `l0_hard_concrete`, of which `strength` has no default. The functional form is
  partition(gates=('kernel|bias', l0_hard_concrete(strength, axis=-1, tied=True, ...))).
  """

  @nn.nowrap
  def parts(self) -> tuple[nn.Module, Regulariser]:
    return self.stock(), partition(gates=('kernel|bias', self.gates(axis=-1, tied=True)))


class SparseVDDense(_Dense, _SparseVD):
  """nn.Dense with a Gaussian posterior per weight of the kernel; the bias is plain.

  Molchanov, Ashukha, Vetrov, 2017, arXiv:1701.05369. Arguments: those of nn.Dense, then by keyword
  those of `sparse_variational_dropout`. The functional form is
  partition(posterior=('kernel', sparse_variational_dropout(...))).
  """

  @nn.nowrap
  def parts(self) -> tuple[nn.Module, Regulariser]:
    return self.stock(), self.posterior()


class SparseVDConv(_Conv, _SparseVD):
  """nn.Conv with a Gaussian posterior per weight of the kernel; the bias is plain.

  Molchanov, Ashukha, Vetrov, 2017, arXiv:1701.05369. Arguments: those of nn.Conv, then by keyword
  those of `sparse_variational_dropout`. With noise='local' the noise at neighbouring outputs is
  independent. The functional form is partition(posterior=('kernel',
  sparse_variational_dropout(...))).
  """

  @nn.nowrap
  def parts(self) -> tuple[nn.Module, Regulariser]:
    return self.stock(), self.posterior()


class BayesianLSTM(_LSTM, _BayesianRNN):
  """nn.RNN(nn.LSTMCell(features)) with a posterior per weight and group variables; biases plain.

  Lobacheva, Chirkova, Vetrov, 2017, arXiv:1708.00077, and its follow-ups. Weights have one draw per
  call, group variables one per sequence, all the same at every time step. Arguments: those of
  nn.LSTMCell, then by keyword those of `bayesian_rnn`. Inputs (B, T, in), states (B, T, features);
  arguments of the call such as seq_lengths are those of nn.RNN.

  The layer sees no reader, so 'hidden' variables multiply the state in the recurrent kernels alone.
  To tie them with the layer that reads it, wrap the whole network: Regularised(network,
  bayesian_rnn(...)). The functional form is bayesian_rnn(cells='cell', embedding=None, head=None,
  ...) over the weights of nn.RNN(nn.LSTMCell(features)).
  """

  @nn.nowrap
  def parts(self) -> tuple[nn.Module, Regulariser]:
    regulariser = bayesian_rnn(cells='cell', embedding=None, head=None,
                               **_arguments(_BayesianRNN, self))
    return nn.RNN(_copy_of(nn.LSTMCell, self), parent=None), regulariser


def _copy_of(stock: type[nn.Module], face: nn.Module) -> Any:
  """Returns the unbound stock layer with the arguments of the face that are its own."""
  own = {field.name for field in dataclasses.fields(face)} - {'parent', 'name'}
  names = [field.name for field in dataclasses.fields(stock) if field.name in own]
  return stock(**{name: getattr(face, name) for name in names}, parent=None)


def _arguments(method: type[nn.Module], face: nn.Module) -> dict[str, Any]:
  """Returns the face's values of the arguments that `method` adds."""
  inherited = {field.name for field in dataclasses.fields(RegularisedModule)}
  return {field.name: getattr(face, field.name) for field in dataclasses.fields(method)
          if field.name not in inherited}
