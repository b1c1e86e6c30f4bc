"""Soft weight-sharing as a Flax module: a thin face, without a formula of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn

from sparsejax.nn.regularised import RegularisedModule
from sparsejax.regulariser import Number, Regulariser, partition
from sparsejax.regularisers.soft_weight_sharing import HYPER_PRIORS, soft_weight_sharing


class _Mixture(RegularisedModule, kw_only=True):
  """The arguments of soft_weight_sharing."""

  num_components: int = 17
  zero_prior: Any = 0.99
  hyper_priors: Any = HYPER_PRIORS
  strength: Number = 0.003
  shared: bool = True
  init_range: float = 0.6
  init_std: float = 0.25
  zero_width: Number | None = None
  width: Number | None = None
  merge_below: Number = 1e-10


class SoftWeightSharing(_Mixture):
  """Any linen model whose weights share one learned mixture of Gaussians as their prior.

  Ullrich, Meeds, Welling, 2017, arXiv:1702.04008. In training the model computes with its own
  weights; deterministic, each is the mean of the component most responsible for it. It goes around
  a whole model, not a layer, because the mixture is shared by the layers. The mixture wants
  learning rates of its own, see `soft_weight_sharing`.

  The functional form is partition(mixture=(leaves, soft_weight_sharing(...))).

  Attributes:
    model: any linen module.
    leaves: pattern of the paths that take part; the others are plain.
    The others, by keyword: the arguments of `soft_weight_sharing`.
  """

  model: nn.Module
  leaves: str = '.*'

  @nn.nowrap
  def parts(self) -> tuple[nn.Module, Regulariser]:
    inherited = {field.name for field in dataclasses.fields(RegularisedModule)}
    arguments = {field.name: getattr(self, field.name) for field in dataclasses.fields(_Mixture)
                 if field.name not in inherited}
    method = soft_weight_sharing(**arguments)
    return self.model.copy(parent=None, name=None), partition(mixture=(self.leaves, method))
