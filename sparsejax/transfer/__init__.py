"""From a teacher to a student: losses on a teacher's outputs."""
from sparsejax.transfer.distillation import distillation, logit_regression

__all__ = ['distillation', 'logit_regression']
