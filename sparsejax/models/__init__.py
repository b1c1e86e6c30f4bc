"""Stock Flax networks, each with named intermediates and couplings."""

from sparsejax.models.convnet import ConvNet
from sparsejax.models.lenet import MLP, LeNet5Caffe, LeNet300100

__all__ = ['ConvNet', 'LeNet300100', 'LeNet5Caffe', 'MLP']
