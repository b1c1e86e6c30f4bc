"""Distillation against NumPy in float64, its limits, and the trainer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import sparsejax
from sparsejax.models.lenet import MLP
from sparsejax.training import fit
from sparsejax.transfer import distillation, logit_regression

RNG = np.random.default_rng(0)
N, CLASSES = 6, 10
STUDENT, TEACHER = (RNG.uniform(-1, 1, (N, CLASSES)).astype(np.float32) for _ in range(2))
CENTRED = [(z - z.mean(1, keepdims=True)).astype(np.float32) for z in (STUDENT, TEACHER)]
LABELS = RNG.integers(0, CLASSES, N).astype(np.int32)
TARGETS = {'labels': LABELS, 'teacher_logits': TEACHER}


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, student, teacher):
  """The loss of each example, and the gradient of each with respect to its own logits."""
  def total(z):
    terms = loss(z, {'labels': jnp.asarray(LABELS), 'teacher_logits': teacher})
    return terms.sum(), terms
  return jax.grad(total, has_aux=True)(student)[::-1]


@pytest.mark.parametrize('temperature, hard_weight', [(1.0, 0.0), (4.0, 0.3), (20.0, 0.9)])
def test_value_and_gradient_are_those_of_the_formula(temperature, hard_weight):
  got, gradient = value_and_gradient(distillation(temperature, hard_weight), STUDENT, TEACHER)
  s, t = (z.astype(np.float64) / temperature for z in (STUDENT, TEACHER))
  soft = -(special.softmax(t, 1) * special.log_softmax(s, 1)).sum(1)
  hard = -special.log_softmax(STUDENT.astype(np.float64), 1)[np.arange(N), LABELS]
  wanted = hard_weight * hard + (1 - hard_weight) * temperature**2 * soft
  np.testing.assert_allclose(got, wanted, rtol=2e-6)     # sums of ten float32 terms
  # (q_S - q_T) / T of the soft term, times T^2.
  slope = (1 - hard_weight) * temperature * (special.softmax(s, 1) - special.softmax(t, 1))
  slope += hard_weight * (special.softmax(STUDENT.astype(np.float64), 1)
                          - np.eye(CLASSES)[LABELS])
  # Probabilities of about a tenth, rounded to 2^-24 of it a few times over, times T.
  np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-7 * max(1, temperature))


def test_the_size_of_the_gradient_does_not_depend_on_the_temperature():
  sizes = [np.linalg.norm(value_and_gradient(distillation(t, 0.0), STUDENT, TEACHER)[1])
           for t in (5.0, 20.0, 100.0)]
  assert max(sizes) / min(sizes) < 1.1


def test_at_high_temperature_it_regresses_logits():
  _, soft = value_and_gradient(distillation(1000.0, 0.0), *CENTRED)
  _, mimic = value_and_gradient(logit_regression(), *CENTRED)
  # For logits up to 2 the next order is (z_S^2 - z_T^2) / (2 T classes) and its mean, together at
  # most 4 / (T classes); rounding of probabilities near 1 / classes, times T, adds 1e-5.
  wanted = (CENTRED[0] - CENTRED[1]).astype(np.float64) / CLASSES
  np.testing.assert_allclose(soft, wanted, rtol=0, atol=4e-3 / CLASSES + 1e-5)
  np.testing.assert_allclose(mimic / CLASSES, wanted, rtol=0, atol=1e-7)


def test_logits_are_compared_up_to_a_constant():
  got, gradient = value_and_gradient(logit_regression(), STUDENT, TEACHER)
  s, t = (z - z.mean(1, keepdims=True) for z in (STUDENT.astype(np.float64), TEACHER))
  np.testing.assert_allclose(got, 0.5 * ((s - t)**2).sum(1), rtol=2e-6)
  np.testing.assert_allclose(gradient, s - t, rtol=0, atol=1e-6)


def test_a_student_that_is_its_teacher_learns_nothing():
  _, gradient = value_and_gradient(logit_regression(), TEACHER, TEACHER)
  np.testing.assert_array_equal(gradient, 0.0)
  _, gradient = value_and_gradient(distillation(5.0, 0.0), TEACHER, TEACHER)
  np.testing.assert_allclose(gradient, 0.0, atol=5e-7)   # T times the rounding of probabilities
  lost, _ = value_and_gradient(logit_regression(), TEACHER + np.float32(8), TEACHER)
  np.testing.assert_allclose(lost, 0.0, atol=1e-10)      # (8 * 2^-24)^2 a logit


def trained(loss, targets):
  """The kernel of a softmax regression after an epoch of 4 steps."""
  images = np.random.default_rng(1).integers(0, 256, (40, 3, 3, 1)).astype(np.uint8)
  recipe = fit.Recipe(MLP((), CLASSES), sparsejax.partition(), optax.sgd(0.5), 40, 10, loss=loss)
  state = fit.start(recipe, jax.random.key(0), images)
  state, losses = fit.jit_epoch(recipe)(state, jnp.asarray(images), targets)
  return np.asarray(state.params['free']['head']['kernel']), np.asarray(losses)


def test_labels_alone_train_as_ever_bit_for_bit():
  labels = jnp.asarray(RNG.integers(0, CLASSES, 40), jnp.int32)
  targets = {'labels': labels, 'teacher_logits': jnp.asarray(RNG.normal(size=(40, CLASSES)))}
  plain = trained(fit.cross_entropy, labels)
  hard = trained(distillation(4.0, 1.0), targets)
  soft = trained(distillation(4.0, 0.5), targets)
  for a, b in zip(plain, hard, strict=True):
    np.testing.assert_array_equal(a, b)
  assert np.any(soft[0] != plain[0]) and np.all(np.isfinite(soft[1]))


@pytest.mark.parametrize('numbers, message', [
    ((0.0, 0.5), 'temperature=0.0 must be finite and above 0'),
    ((float('inf'), 0.5), 'temperature=inf'), ((1.0, -0.1), r'hard_weight=-0.1 must lie in \[0,'),
    ((1.0, 1.1), 'hard_weight=1.1')])
def test_numbers_that_mean_nothing_are_refused(numbers, message):
  with pytest.raises(ValueError, match=message):
    distillation(*numbers)


@pytest.mark.parametrize('targets, message', [
    (LABELS, "targets lack 'teacher_logits'; they are ndarray"),
    ({'labels': LABELS}, "lack 'teacher_logits'; they are labels; pass a dict"),
    ({'teacher_logits': TEACHER}, "targets lack 'labels'; they have teacher_logits"),
    ({**TARGETS, 'teacher_logits': TEACHER[:, :9]}, r'teacher_logits are \(6, 9\), the logits')])
def test_targets_that_do_not_fit_are_refused(targets, message):
  with pytest.raises(ValueError, match=message):
    distillation(2.0, 0.5)(STUDENT, targets)
