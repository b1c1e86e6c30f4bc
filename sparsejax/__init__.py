"""sparsejax: sparse and Bayesian compression of neural networks in JAX."""

from sparsejax.apply import apply
from sparsejax.kernels.block_sparse import BlockSparse
from sparsejax.packed.codebook import Codebook
from sparsejax.packed.quantised import Quantised
from sparsejax.packing import pack
from sparsejax.regulariser import Regulariser, chain, finalise, partition, stacked
from sparsejax.regularisers.bayesian_rnn import bayesian_rnn
from sparsejax.regularisers.block_pruning import block_pruning, dense_quantile
from sparsejax.regularisers.block_sparse import block_sparse
from sparsejax.regularisers.blockwise import blockwise
from sparsejax.regularisers.dropout import dropout
from sparsejax.regularisers.group_lasso import group_lasso
from sparsejax.regularisers.group_variables import group_variables
from sparsejax.regularisers.hard_concrete import l0_hard_concrete
from sparsejax.regularisers.iterative_magnitude import iterative_sparsity
from sparsejax.regularisers.l1 import l1
from sparsejax.regularisers.magnitude import cubic_sparsity, magnitude_pruning
from sparsejax.regularisers.moving_blocks import block_rigl, block_set
from sparsejax.regularisers.quantised import (affine_weights, binary_connect, binary_weights,
                                              power_of_two_weights, ternary_weights,
                                              trained_ternary_weights, uniform_weights)
from sparsejax.regularisers.random_code import minimal_random_code
from sparsejax.regularisers.rigl import rigl
from sparsejax.regularisers.shared_codebook import shared_codebook
from sparsejax.regularisers.soft_weight_sharing import soft_weight_sharing
from sparsejax.regularisers.sparse_evolutionary import sparse_evolutionary_training
from sparsejax.regularisers.static_mask import static_mask
from sparsejax.regularisers.straight_through import straight_through_magnitude
from sparsejax.regularisers.variational_dropout import sparse_variational_dropout
from sparsejax.regularisers.weight_decay import weight_decay
from sparsejax.structured import Gated, Gaussian, LowRank, RowGaussian, densify
from sparsejax.targeted import targeted

__version__ = '0.1.0'
