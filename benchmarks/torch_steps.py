"""The same training steps in PyTorch on the CPU: the yardstick, given every advantage we know.

Fused Adam, in-place updates, denormals flushed as XLA does, no value computed that nobody reads,
and the KL's derivative written out as ours is. Kernels are kept in PyTorch's own layout,
(out, in) and (out, in, height, width); images are NCHW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks import cases

Tensor = torch.Tensor
Noise = Callable[[tuple[int, ...]], Tensor]

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1           # hard concrete, Louizos et al., 2018, section 4.1
U_MARGIN = 1e-6
K1, K2, K3 = 0.63576, 1.87320, 1.48695         # Molchanov et al., 2017, eq. 14
THETA_EPSILON = 1e-8                           # inside log(theta^2 + epsilon)
VARIANCE_EPSILON = 1e-8                        # inside the square root of an output's variance


def to_torch(weights: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
  """Returns {'layer/kernel', 'layer/bias'} in PyTorch's layout from Flax's.

  A dense layer behind a convolution reads (channel, height, width) here, (height, width, channel)
  there; its columns are permuted so that both networks compute the same function.
  """
  tensors = {}
  channels = None
  for layer in sorted(weights):                # conv0, conv1, dense..., head: the order of the net
    kernel = np.asarray(weights[layer]['kernel'])
    if kernel.ndim == 4:
      channels = kernel.shape[-1]
      kernel = kernel.transpose(3, 2, 0, 1)
    else:
      if channels is not None:
        side = math.isqrt(kernel.shape[0] // channels)
        kernel = (kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
                  .reshape(kernel.shape))
        channels = None
      kernel = kernel.T
    tensors[f'{layer}/kernel'] = torch.from_numpy(np.array(kernel, np.float32, order='C'))
    tensors[f'{layer}/bias'] = torch.from_numpy(np.array(weights[layer]['bias'], np.float32))
  return tensors


def gate_axis(path: str) -> int:
  """Filters of a convolution are gated, and the inputs of a dense layer."""
  return 0 if path.startswith('conv') else 1


def start_params(method: str, tensors: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
  """Returns the trained tensors of a method, each a leaf that wants its gradient."""
  params = {path: tensor.clone() for path, tensor in tensors.items()}
  generator = torch.Generator().manual_seed(seed)
  mean = math.log(1 - cases.L0_DROP_RATE) - math.log(cases.L0_DROP_RATE)
  for path, kernel in tensors.items():
    if not path.endswith('kernel'):
      continue
    if method == 'l0':
      units = kernel.shape[gate_axis(path)]
      params[f'{path}/log_alpha'] = mean + 0.01 * torch.randn(units, generator=generator)
    elif method == 'vd':
      params[f'{path}/log_sigma2'] = torch.full_like(kernel, cases.VD_INIT_LOG_SIGMA2)
  return {path: tensor.requires_grad_() for path, tensor in params.items()}


def hard_concrete(log_alpha: Tensor, u: Tensor) -> Tensor:
  """Gates z in [0, 1] from uniform u; eqs. 10-12 of Louizos et al."""
  s = torch.sigmoid((torch.log(u) - torch.log1p(-u) + log_alpha) / BETA)
  return torch.clamp(s * (ZETA - GAMMA) + GAMMA, 0, 1)


def expected_l0(log_alpha: Tensor, size: int) -> Tensor:
  """Expected number of the kernel's `size` weights in use, eq. 12."""
  probability = torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))
  return size // log_alpha.numel() * probability.sum()


def kl(theta: Tensor, log_sigma2: Tensor) -> Tensor:
  """KL from the log-uniform prior, eq. 14 of Molchanov et al., summed, in nats."""
  value = log_sigma2 - torch.log(theta.square() + THETA_EPSILON)
  value = torch.clamp(value, -cases.VD_CLIP, cases.VD_CLIP)
  terms = K1 * torch.sigmoid(-(K2 + K3 * value)) + 0.5 * functional.softplus(-value)
  return terms.sum()


class KLGradient(torch.autograd.Function):
  """A zero that has the gradient of `kl`: in training nobody reads the value."""

  @staticmethod
  def forward(ctx: Any, theta: Tensor, log_sigma2: Tensor) -> Tensor:
    ctx.save_for_backward(theta, log_sigma2)
    return theta.new_zeros(())

  @staticmethod
  def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    theta, log_sigma2 = ctx.saved_tensors
    square = theta.square() + THETA_EPSILON
    value = log_sigma2 - torch.log(square)
    s = torch.sigmoid(K2 + K3 * value)
    slope = cotangent * (-K1 * K3 * s * (1 - s) - 0.5 * torch.sigmoid(-value))
    slope = torch.where(value.abs() <= cases.VD_CLIP, slope, 0.0)
    return slope * (-2 * theta / square), slope


def objective(network: str, method: str, params: Mapping[str, Tensor], images: Tensor,
              labels: Tensor, uniform: Noise = torch.rand, normal: Noise = torch.randn) -> Tensor:
  """Returns mean NLL + penalty / N of a batch, in nats; for VD the penalty's gradient alone.

  Args:
    images: uint8 (B, 28, 28, 1). labels: (B,).
    uniform, normal: shape -> noise; a test passes the very numbers of the other framework.
  """
  penalty = images.new_zeros((), dtype=torch.float32)
  kernels = {}
  for path in [path for path in params if path.endswith('kernel')]:
    kernel = params[path]
    if method == 'l0':
      log_alpha = params[f'{path}/log_alpha']
      u = uniform((log_alpha.numel(),)) * (1 - 2 * U_MARGIN) + U_MARGIN
      shape = [1] * kernel.ndim
      shape[gate_axis(path)] = -1
      kernels[path] = kernel * hard_concrete(log_alpha, u).view(shape)
      penalty = penalty + cases.L0_STRENGTH * expected_l0(log_alpha, kernel.numel())
    else:
      kernels[path] = kernel
      if method == 'vd':
        log_sigma2 = params[f'{path}/log_sigma2']
        penalty = penalty + cases.VD_STRENGTH * KLGradient.apply(kernel, log_sigma2)

  def linear(layer, x):
    function = functional.conv2d if layer.startswith('conv') else functional.linear
    path = f'{layer}/kernel'
    mean = function(x, kernels[path], params[f'{layer}/bias'])
    if method != 'vd':
      return mean
    variance = function(x.square(), torch.exp(params[f'{path}/log_sigma2']))
    return mean + torch.sqrt(variance + VARIANCE_EPSILON) * normal(tuple(mean.shape))

  x = images.float() * cases.SCALE
  if network == 'lenet_300_100':
    x = x.flatten(1)
    x = functional.relu(linear('dense0', x))
    x = functional.relu(linear('dense1', x))
  else:
    x = x.permute(0, 3, 1, 2).contiguous()
    x = functional.max_pool2d(functional.relu(linear('conv0', x)), 2)
    x = functional.max_pool2d(functional.relu(linear('conv1', x)), 2)
    x = functional.relu(linear('dense', x.flatten(1)))
  logits = linear('head', x)
  return functional.cross_entropy(logits, labels) + penalty / cases.EXAMPLES


class TorchSteps:
  """A call takes `steps` training steps in a Python loop and leaves the parameters changed.

  Attributes:
    params: the trained tensors. loss: the objective of the last step, a tensor.
  """

  def __init__(self, network: str, method: str, weights: Mapping[str, Mapping[str, np.ndarray]],
               data: cases.Data, batch_size: int, steps: int, compiled: bool = False):
    torch.set_flush_denormal(True)
    self.params = start_params(method, to_torch(weights))
    self.loss: Any = None
    self._clamped = [p for path, p in self.params.items() if path.endswith('log_alpha')]
    self._images, self._labels = torch.from_numpy(data.images), torch.from_numpy(data.labels).long()
    orders = cases.batches(len(data.images), batch_size, steps)
    self._orders = [torch.from_numpy(order).long() for order in orders]
    self._calls = 0
    self._optimiser = torch.optim.Adam(self.params.values(), lr=cases.LEARNING_RATE, fused=True)

    def batch_objective(params, images, labels, batch):
      return objective(network, method, params, images[batch], labels[batch])
    self._objective = batch_objective
    if compiled:
      self._objective = torch.compile(batch_objective, dynamic=False)

  def __call__(self) -> None:
    order = self._orders[self._calls % len(self._orders)]
    self._calls += 1
    for batch in order:
      self._optimiser.zero_grad(set_to_none=True)
      self.loss = self._objective(self.params, self._images, self._labels, batch)
      self.loss.backward()
      self._optimiser.step()
      with torch.no_grad():
        for log_alpha in self._clamped:
          log_alpha.clamp_(math.log(1e-2), math.log(1e2))
