"""Flax modules: any method around any linen model, the papers' layers, and the bridge to NNX."""

from sparsejax.nn.faces import BayesianLSTM, L0Conv, L0Dense, SparseVDConv, SparseVDDense
from sparsejax.nn.gates import HardConcreteGate
from sparsejax.nn.nnx import weights_of, with_weights
from sparsejax.nn.regularised import Regularised
from sparsejax.nn.soft_sharing import SoftWeightSharing
from sparsejax.nn.update_all import update

__all__ = ['BayesianLSTM', 'HardConcreteGate', 'L0Conv', 'L0Dense', 'Regularised',
           'SoftWeightSharing', 'SparseVDConv', 'SparseVDDense', 'update', 'weights_of',
           'with_weights']
