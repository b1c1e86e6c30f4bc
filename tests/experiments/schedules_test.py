"""Schedules in epochs, against their formulas worked here."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.schedules import SCHEDULES, number, whole_steps

STEPS = 10          # an epoch


def at(schedule, steps):
  return [float(schedule(step)) for step in steps]


def made(**fields):
  return number(fields, STEPS, 'here')


@pytest.mark.parametrize('value', [0.3, 7, 'erk', (1, 2), {'a': 1}, None])
def test_what_is_no_schedule_is_passed_on(value):
  assert number(value, STEPS, 'here') is value


def test_piecewise_linear_is_linear_between_and_constant_outside():
  schedule = made(schedule='piecewise_linear', epochs=(2, 4, 5), values=(1.0, 0.5, 2.0))
  np.testing.assert_allclose(at(schedule, (0, 20, 25, 30, 40, 45, 50, 500)),
                             [1, 1, 0.875, 0.75, 0.5, 1.25, 2, 2], rtol=1e-6)


def test_a_staircase_holds_through_each_epoch():
  schedule = made(schedule='piecewise_linear', epochs=(0, 4), values=(0.0, 1.0), staircase=True)
  np.testing.assert_allclose(at(schedule, (0, 9, 10, 19, 20, 39, 40)),
                             [0, 0, 0.25, 0.25, 0.5, 0.75, 1], rtol=1e-6)


def test_cubic_sparsity_rises_by_its_formula():
  schedule = made(schedule='cubic_sparsity', final=0.9, begin_epoch=1, end_epoch=5)
  # Zhu and Gupta: s_f (1 - (1 - t)^3), t from 0 to 1 between the two ends.
  steps = np.array([0, 10, 20, 35, 50, 99])
  t = np.clip((steps - 10) / 40, 0, 1)
  np.testing.assert_allclose(at(schedule, steps), 0.9 * (1 - (1 - t)**3), rtol=1e-6)


def test_iterative_sparsity_keeps_the_same_share_each_round():
  schedule = made(schedule='iterative_sparsity', final=1 - 0.5**4, rounds=4, begin_epoch=2,
                  epochs_per_round=3)
  kept = [1, 0.5, 0.25, 0.125, 0.0625, 0.0625]
  np.testing.assert_allclose(at(schedule, (19, 20, 50, 80, 110, 999)), 1 - np.array(kept),
                             rtol=1e-6)
  np.testing.assert_allclose(at(schedule, (49, 79, 109)), [0.5, 0.75, 0.875], rtol=1e-6)


def test_a_rewound_rate_begins_anew():
  inner = {'schedule': 'piecewise_linear', 'epochs': (0, 2), 'values': (1.0, 0.0)}
  schedule = made(schedule='rewound', epochs_per_round=2, inner=inner)
  np.testing.assert_allclose(at(schedule, (0, 5, 10, 19, 20, 25, 39, 40)),
                             [1, 0.75, 0.5, 0.05, 1, 0.75, 0.05, 1], rtol=1e-6)
  assert made(schedule='rewound', epochs_per_round=2, inner=0.25)(123) == 0.25


def test_every_schedule_takes_a_traced_step():
  inner = {'schedule': 'piecewise_linear', 'epochs': (0, 2), 'values': (1.0, 0.0)}
  fields = {
      'piecewise_linear': {'epochs': (0, 2), 'values': (1.0, 0.0)},
      'cubic_sparsity': {'final': 0.9, 'begin_epoch': 1, 'end_epoch': 5},
      'iterative_sparsity': {'final': 0.9, 'rounds': 3, 'begin_epoch': 1, 'epochs_per_round': 1},
      'rewound': {'epochs_per_round': 1, 'inner': inner},
  }
  assert fields.keys() == SCHEDULES.keys()
  for name, given in fields.items():
    schedule = made(schedule=name, **given)
    steps = jnp.array([0, 7, 15, 33])
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(steps), at(schedule, (0, 7, 15, 33)),
                               rtol=1e-6)


@pytest.mark.parametrize('fields, message', [
    ({'schedule': 'piecewise'}, r"here.schedule='piecewise' is unknown; did you mean 'piecewise_l"),
    ({'schedule': 'piecewise_linear', 'epochs': (0, 1)},
     'here needs the fields epochs, values, got epochs'),
    ({'schedule': 'piecewise_linear', 'epochs': (0, 1), 'values': (1.0,)}, 'match values'),
    ({'schedule': 'piecewise_linear', 'epochs': (1, 1), 'values': (1.0, 2.0)}, 'must increase'),
    ({'schedule': 'piecewise_linear', 'epochs': 1, 'values': 1.0}, 'one to one'),
    ({'schedule': 'cubic_sparsity', 'final': 0.9}, 'needs the fields final, begin_epoch, end_'),
    ({'schedule': 'iterative_sparsity', 'final': 0.9, 'rounds': 3, 'begin_epoch': 0.01,
      'epochs_per_round': 1}, r'here.begin_epoch=0.01 is no whole step of 10 an epoch'),
    ({'schedule': 'rewound', 'epochs_per_round': 0.01, 'inner': 1.0}, 'here.epochs_per_round=0.01'),
    ({'schedule': 'rewound', 'epochs_per_round': 1, 'inner': {'schedule': 'x'}},
     r"here.inner.schedule='x' is unknown"),
])
def test_mistakes_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    number(fields, STEPS, 'here')


def test_the_config_is_left_as_it_was():
  fields = {'schedule': 'piecewise_linear', 'epochs': (0, 1), 'values': (0.0, 1.0),
            'staircase': True}
  before = dict(fields)
  number(fields, STEPS, 'here')
  assert fields == before


@pytest.mark.parametrize('epochs, steps', [(1, 10), (0.5, 5), (0.06, 1), (2.04, 20), (2.06, 21)])
def test_epochs_become_whole_steps(epochs, steps):
  assert whole_steps(epochs, STEPS, 'here') == steps
