"""Posteriors and priors as NumPyro distributions, with their divergences registered.

Import it by name: `import sparsejax` does not load NumPyro.
"""

from sparsejax.distributions.hard_concrete import HardConcrete
from sparsejax.distributions.log_uniform import ImproperLogUniform

__all__ = ['HardConcrete', 'ImproperLogUniform']
