"""The block-sparse weight and its product; see `weight.py`, `api.py` and `layout.py`."""

from sparsejax.kernels.block_sparse.api import (IMPLEMENTATIONS, block_sparse_matmul,
                                                lowering_for)
from sparsejax.kernels.block_sparse.weight import BlockSparse
from sparsejax.kernels.block_sparse import layers as _layers  # registers the linear rule
