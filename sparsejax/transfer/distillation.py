"""Losses on a teacher's logits, for `Recipe.loss`.

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531, for
soft targets; Ba, Caruana, "Do deep nets really need to be deep?", 2014, arXiv:1312.6184, and Urban
et al., 2017, arXiv:1603.05691, for the regression of logits. Targets are a dict of arrays with one
entry per image; the teacher must have seen the very image the student sees, augmentation included,
and the logits of an ensemble are the mean of its members' logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from sparsejax.training.fit import cross_entropy

Array = jax.Array
Loss = Callable[[Array, Mapping[str, Array]], Array]


def distillation(temperature: float, hard_weight: float) -> Loss:
  """hard_weight CE(labels, z_S) + (1 - hard_weight) T^2 CE(softmax(z_T / T), softmax(z_S / T)).

  The factor T^2 keeps the gradient's size as T grows; for large T and logits of mean zero it is
  (z_S - z_T) / classes, that of `logit_regression` divided by the number of classes. A term of
  weight 0 is not computed: hard_weight=1 is the ordinary cross entropy, bit for bit.

  Args:
    temperature: T > 0, dimensionless. hard_weight: in [0, 1].

  Returns:
    loss(logits (n, classes), {'labels': (n,), 'teacher_logits': (n, classes)}) -> (n,) nats.

  Raises:
    ValueError: for numbers outside these ranges; and the loss, for targets that lack an entry or
      a teacher of another number of classes.
  """
  if not 0 < temperature < float('inf'):
    raise ValueError(f'temperature={temperature} must be finite and above 0')
  if not 0 <= hard_weight <= 1:
    raise ValueError(f'hard_weight={hard_weight} must lie in [0, 1]')

  def loss(logits, targets):
    teacher = _teacher_logits(logits, targets)
    if 'labels' not in targets:
      raise ValueError(f"targets lack 'labels'; they have {', '.join(sorted(targets))}")
    terms = []
    if hard_weight > 0:
      terms.append(hard_weight * cross_entropy(logits, targets['labels']))
    if hard_weight < 1:
      soft = optax.softmax_cross_entropy(logits / temperature,
                                         jax.nn.softmax(teacher / temperature))
      terms.append((1 - hard_weight) * temperature**2 * soft)
    return sum(terms[1:], terms[0])

  return loss


def logit_regression() -> Loss:
  """Half the squared distance of the student's logits from the teacher's, both centred.

  Each image's mean logit is subtracted on both sides, for the softmax does not see it: a student
  that differs from the teacher by a constant loses nothing.

  Returns:
    loss(logits (n, classes), {'teacher_logits': (n, classes)}) -> (n,); other targets are not read.
    The loss raises ValueError for targets without a teacher, or of another number of classes.
  """

  def loss(logits, targets):
    difference = logits - _teacher_logits(logits, targets)
    difference = difference - difference.mean(axis=-1, keepdims=True)
    return 0.5 * jnp.sum(jnp.square(difference), axis=-1)

  return loss


def _teacher_logits(logits: Array, targets: Mapping[str, Array]) -> Array:
  """Returns the teacher's logits in float32, without gradient."""
  if not isinstance(targets, Mapping) or 'teacher_logits' not in targets:
    found = ', '.join(sorted(targets)) if isinstance(targets, Mapping) else type(targets).__name__
    raise ValueError(f"targets lack 'teacher_logits'; they are {found}; pass a dict of arrays with "
                     'one entry per image')
  teacher = targets['teacher_logits']
  if teacher.shape != logits.shape:
    raise ValueError(f'teacher_logits are {teacher.shape}, the logits {logits.shape}; both must be '
                     '(n, classes) of the same images')
  return jax.lax.stop_gradient(teacher.astype(jnp.float32))
