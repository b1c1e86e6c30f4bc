"""The grammar of --sweep against what is written by hand."""
import numpy as np
import pytest

from experiments.sweeps import grammar


@pytest.mark.parametrize(('text', 'values'), [
    ('0..3', [0, 1, 2, 3]),
    ('-1..1', [-1, 0, 1]),
    ('7..7', [7]),
    ('5', [5]),
    ('[1, 2.5, 1e-3]', [1, 2.5, 0.001]),
    ('[3,]', [3]),
    ('linspace(0, 1, 5)', [0.0, 0.25, 0.5, 0.75, 1.0]),
    ('logspace(-2, 1, 4)', [0.01, 0.1, 1.0, 10.0]),
    ('logspace(0,0,1)', [1.0]),
    ('[adam, sgd]', ['adam', 'sgd']),
    ('\'a; b\'', ['a; b']),
    ('"x=y"', ['x=y']),
    ('[true, false, none]', [True, False, None]),
    ('[(300, 100), (20,)]', [(300, 100), (20,)]),
    ('[.5, 2., +3]', [0.5, 2.0, 3]),
])
def test_values(text, values):
  found = [member['a.b'] for member in grammar.overrides(f'a.b={text}')]
  assert found == values
  assert [type(value) for value in found] == [type(value) for value in values]


def test_logspace_is_that_of_numpy_to_twelve_digits():
  found = [member['x'] for member in grammar.overrides('x=logspace(-3.5, 2, 9)')]
  # Half a unit of the twelfth digit.
  np.testing.assert_allclose(found, np.logspace(-3.5, 2, 9), rtol=5e-12)


def test_semicolons_make_a_product_whose_last_axis_is_the_fastest():
  assert grammar.overrides(' config.seed = 0..1 ; m.name=[a, b]; ') == [
      {'seed': 0, 'm.name': 'a'}, {'seed': 0, 'm.name': 'b'},
      {'seed': 1, 'm.name': 'a'}, {'seed': 1, 'm.name': 'b'}]


def test_commas_zip():
  assert grammar.overrides('rate, seed = [0.1, 0.2], 3..4\n; e=7') == [
      {'rate': 0.1, 'seed': 3, 'e': 7}, {'rate': 0.2, 'seed': 4, 'e': 7}]


@pytest.mark.parametrize(('text', 'column', 'what'), [
    ('', 1, 'expected a field of the config, such as seed, found the end'),
    ('seed', 5, "expected '=', found the end"),
    ('seed=', 6, 'expected a value, found the end'),
    ('seed=0..;b=1', 9, "expected a value, found ';'"),
    ('seed=0..2.5', 9, 'a range a..b is of integers, not 2.5'),
    ('seed=3..1', 6, 'this has 0 values'),
    ('seed=0..99999999', 6, 'this has 100000000 values'),
    ('seed=[]', 6, 'a list needs at least one value'),
    ('seed=[1 2]', 9, "expected ']', found '2'"),
    ('seed=[1, 2', 11, "expected ']', found the end"),
    ('seed=0..3 rate=1', 11, "expected ';' and another field, or the end, found 'rate'"),
    ('seed=1;seed=2', 8, 'seed has values already'),
    ('seed=[1, 2, 1]', 6, 'the value 1 is there twice'),
    ('a,b=[1,2],[1]', 11, 'b has 1 values and a has 2'),
    ('a,b=[1,2]', 10, "expected ',', found the end"),
    ('a=range(3)', 3, "'range' is no function; there are linspace and logspace"),
    ('a=linspace(0, 1)', 3, 'linspace(first, last, count) takes two numbers and how many'),
    ('a=linspace(0, 1, 2.5)', 3, 'linspace(first, last, count) takes two numbers and how many'),
    ('a=linspace(0, x, 2)', 3, 'linspace(first, last, count) takes two numbers and how many'),
    ('a=logspace(0, 999, 2)', 3, '10 to the 999 is no number here'),
    ("a='x", 3, 'this text has no closing quote'),
    ('a=1 + 1', 5, "'+' has no meaning here"),
    ('__import__("os")=1', 11, "expected '=', found '('"),
])
def test_errors_show_the_place(text, column, what):
  with pytest.raises(grammar.SweepError) as caught:
    grammar.overrides(text)
  first, shown, caret = str(caught.value).split('\n')
  assert first.startswith(f'sweep, column {column}: {what}')
  assert shown == f'  {text}' and caret == ' ' * (column + 1) + '^'
