"""What a result is tied to: on tiny modules written here, and on edited sources of this project."""
import pathlib
import re
import types

import ml_collections
import pytest

from experiments import build, schedules
from experiments.configs.digits import l0_mlp
from experiments.configs.frontier import mlp
from experiments.evidence import code_hash as module
from experiments.evidence.code_hash import closure, code_hash, imports

FILES = {
    'sparsejax.core': 'from sparsejax import inner\nimport numpy as np\n\ndef f(x):\n  return x\n',
    'sparsejax.inner': '"""Doc."""\nimport sparsejax.deep.leaf as leaf\nA = 1\n',
    'sparsejax.deep.leaf': 'B = 2\n',
    'sparsejax.net': 'class Net:\n  """Doc."""\n  width = 3\n',
    'sparsejax.one': 'def one():\n  return 1\n',
    'sparsejax.two': 'def two():\n  return 2\n',
    'sparsejax.unused': 'C = 3\n',
    'experiments.run': 'from sparsejax import unused\n\ndef load(c):\n  return c\n\n'
                       'def show(x):\n  print(x)\n',
    'experiments.schedules': 'def slow(x):\n  return x\n\ndef fast(x):\n  return x * 9\n',
}


@pytest.fixture
def forget():
  """The module keeps what it has read; nothing that a test makes up may stay."""
  def clear():
    module.imports.cache_clear()
    module._normal_form.cache_clear()
  yield clear
  clear()


@pytest.fixture
def tiny(tmp_path, monkeypatch, forget):
  """A function {module: other source} -> checksum of a config with the method 'one'."""
  folder = [tmp_path]

  def path(name):
    file = folder[0] / f'{name}.py'
    return file if file.exists() else None
  monkeypatch.setattr(module, '_path', path)
  monkeypatch.setattr(module, 'CORE', ('sparsejax.core',))
  monkeypatch.setattr(module, 'PARTS', {'experiments.run': ('load',)})
  monkeypatch.setattr(build, 'MODELS', {'net': types.SimpleNamespace(__module__='sparsejax.net')})
  monkeypatch.setattr(build, 'METHODS', {
      name: types.SimpleNamespace(__module__=f'sparsejax.{name}') for name in ('one', 'two')})

  def checksum(changes=None, config=None):
    folder[0] = tmp_path / str(len(list(tmp_path.iterdir())))
    folder[0].mkdir()
    for name, source in (FILES | (changes or {})).items():
      (folder[0] / f'{name}.py').write_text(source)
    forget()
    return code_hash(config or config_of())
  return checksum


def config_of(rate=0.1, **rules):
  rules = rules or {'rule': {'method': 'one'}}
  return ml_collections.ConfigDict({'model': {'name': 'net'}, 'regulariser': rules,
                                    'optimiser': {'learning_rate': rate}})


# --- on tiny modules ------------------------------------------------------------------------------


def test_the_same_code_has_the_same_checksum(tiny):
  assert tiny() == tiny() and re.fullmatch('[0-9a-f]{64}', tiny())


@pytest.mark.parametrize('name, source', [
    ('sparsejax.core', 'from sparsejax import inner\nimport numpy as np\n\n\n'
                       'def f(x):   # why\n  """What."""\n\n  return x\n'),
    ('sparsejax.core', '"""A head."""\n# A line.\n' + FILES['sparsejax.core']),
    ('sparsejax.inner', '"""Another\n\n  doc of two lines.\n"""\nimport sparsejax.deep.leaf as leaf'
                        '  \n\nA = 1  # "one"\n'),
    ('sparsejax.net', 'class Net:\n  width = 3\n'),
    ('sparsejax.unused', 'C = 4\n'),
    ('sparsejax.two', 'def two():\n  return 3\n'),
    ('experiments.run', FILES['experiments.run'].replace('print(x)', 'print(x, x)')),
    ('experiments.run', FILES['experiments.run'].replace('unused', 'two')),
    ('experiments.schedules', FILES['experiments.schedules'].replace('* 9', '* 8')),
])
def test_words_and_modules_that_decide_nothing_do_not_count(tiny, name, source):
  assert source != FILES[name]
  assert tiny({name: source}) == tiny()


@pytest.mark.parametrize('name, before, after', [
    ('sparsejax.core', 'return x', 'return -x'),
    ('sparsejax.core', 'def f(x)', 'def f(x, y=1)'),
    ('sparsejax.inner', 'A = 1', 'A = 2'),                        # imported by the core
    ('sparsejax.deep.leaf', 'B = 2', 'B = 3'),                    # and by that in turn
    ('sparsejax.net', 'width = 3', 'width = 4'),
    ('sparsejax.one', 'return 1', 'return 2'),
    ('experiments.run', 'return c', 'return [c]'),
    ('sparsejax.core', 'return x', 'return "# no comment"'),
])
def test_code_that_decides_counts(tiny, name, before, after):
  assert before in FILES[name]
  assert tiny({name: FILES[name].replace(before, after)}) != tiny()


def test_a_sign_in_a_string_is_no_comment(tiny):
  one, two = (tiny({'sparsejax.one': f'def one():\n  return "a # {text}"\n'}) for text in 'bc')
  assert one != two


def test_a_text_that_is_no_docstring_counts(tiny):
  one, two = (tiny({'sparsejax.one': f'X = """{text}"""\n'}) for text in 'bc')
  assert one != two


def test_indentation_counts(tiny):
  source = 'def one(x):\n  if x:\n    x = 1\n{}  return x\n'
  assert tiny({'sparsejax.one': source.format('')}) != tiny({'sparsejax.one': source.format('  ')})


def test_the_method_of_the_config_counts(tiny):
  one, two = tiny(), tiny(config=config_of(rule={'method': 'two'}))
  assert one != two
  both = config_of(rule={'method': 'one', 'outer': {'method': 'two'}})
  assert tiny(config=both) not in (one, two)
  changed = {'sparsejax.two': 'def two():\n  return 3\n'}
  assert tiny(changed, both) != tiny(config=both)


def test_the_schedules_of_the_config_count_and_no_others(tiny):
  fast = config_of({'schedule': 'slow', 'inner': {'schedule': 'fast'}})
  slow = config_of({'schedule': 'slow'})
  assert len({tiny(), tiny(config=slow), tiny(config=fast)}) == 3
  changed = {'experiments.schedules': FILES['experiments.schedules'].replace('* 9', '* 8')}
  assert tiny(changed, slow) == tiny(config=slow)
  assert tiny(changed, fast) != tiny(config=fast)


def test_numbers_of_the_config_do_not_count(tiny):
  """They have a checksum of their own, workdir.config_hash."""
  assert tiny(config=config_of(rate=0.2)) == tiny()


def test_a_function_that_is_gone_is_named(tiny):
  with pytest.raises(ValueError, match='experiments.run does not define load; correct the names'):
    tiny({'experiments.run': 'def other():\n  pass\n'})


def test_imports_are_those_of_this_project(tiny):
  tiny({'sparsejax.core': 'import sparsejax\nimport numpy.linalg\nfrom sparsejax.inner import A\n'
                          'from sparsejax.deep import leaf\nfrom experiments import run\n'
                          'from sparsejax import missing\n'
                          'def late():\n  from sparsejax import net\n'})
  assert imports('sparsejax.core') == ('experiments.run', 'sparsejax.deep.leaf', 'sparsejax.inner',
                                       'sparsejax.net')


def test_a_circle_of_imports_ends(tiny):
  tiny({'sparsejax.deep.leaf': 'from sparsejax import core\n'})
  assert closure(['sparsejax.core']) == {'sparsejax.core', 'sparsejax.inner',
                                         'sparsejax.deep.leaf'}


# --- on this project ------------------------------------------------------------------------------


@pytest.fixture
def edited(monkeypatch):
  """A function (module, before, after, config) -> checksum with that module's source replaced."""
  source = module._source
  kept = {name: getattr(module, name) for name in ('imports', '_normal_form')}

  def checksum(name, before, after, config):
    text = source(name)
    assert before in text, f'{name} no longer holds {before!r}'
    with monkeypatch.context() as patch:
      patch.setattr(module, '_source', lambda asked: (
          text.replace(before, after) if asked == name else source(asked)))
      for function, cached in kept.items():     # the edited module is read anew, and not kept
        patch.setattr(module, function, lambda asked, *rest, cached=cached: (
            cached.__wrapped__ if asked == name else cached)(asked, *rest))
      return code_hash(config)
  return checksum


def test_a_repeated_call_gives_the_same(forget):
  first = code_hash(mlp.get_config('vd'))
  assert code_hash(mlp.get_config('vd')) == first
  forget()
  assert code_hash(mlp.get_config('vd')) == first


def test_every_variant_with_another_method_or_schedule_differs():
  hashes = {name: code_hash(mlp.get_config(name)) for name in mlp.METHODS}
  # A chain's own function is part of build.py; its parts are l1 and magnitude_pruning.
  assert len(set(hashes.values())) == len(hashes), hashes


def test_adding_to_the_whitelists_changes_nothing(monkeypatch, edited):
  config = mlp.get_config('magnitude')
  before = code_hash(config)
  monkeypatch.setitem(build.METHODS, 'new', build.METHODS['l1'])
  monkeypatch.setitem(build.MODELS, 'new', build.MODELS['mlp'])
  assert code_hash(config) == before
  assert edited('experiments.build', "    'l1': sparsejax.l1,", "    'l1': sparsejax.l1,\n"
                "    'new': sparsejax.l1,", config) == before
  assert edited('experiments.build', "OPTIMISERS = {'adam': optax.adam,",
                "OPTIMISERS = {'new': optax.lion, 'adam': optax.adam,", config) == before


def test_changes_of_this_project_that_decide_numbers_count(edited):
  config = mlp.get_config('magnitude')
  before = code_hash(config)
  for name, old, new in (
      ('sparsejax.training.fit', 'jax.random.fold_in(state.key, state.step)', 'state.key'),
      ('sparsejax.regularisers.magnitude', 'import numpy as np', 'import numpy as np\nX = 1'),
      ('sparsejax.models.lenet', "x = nn.relu(nn.Dense(width,", "x = nn.gelu(nn.Dense(width,"),
      ('experiments.build', 'num_terms=len(images)', 'num_terms=1'),
      ('experiments.data', 'dataset, config.validation_examples, config.seed)',
       'dataset, config.validation_examples, 0)'),
      ('experiments.schedules', "fields['begin_epoch'] * steps_per_epoch", "fields['begin_epoch']"),
      ('sparsejax.paths', 'import', 'import sys\nimport'),           # imported by all of them
  ):
    assert edited(name, old, new, config) != before, name


def test_changes_of_this_project_that_decide_none_do_not_count(edited):
  config = mlp.get_config('magnitude')
  before = code_hash(config)
  for name, old, new in (
      ('sparsejax.training.fit', '"""Training as pure functions', '"""Training in pure functions'),
      ('sparsejax.regularisers.variational_dropout', 'import', 'X = 1\nimport'),
      ('experiments.run', 'This run had ended', 'That run had ended'),
      ('experiments.build', 'reads is an error', 'looks at is an error'),
      ('sparsejax', 'from sparsejax', 'X = 1\nfrom sparsejax'),
  ):
    assert edited(name, old, new, config) == before, name


def test_a_chain_counts_by_its_parts_and_not_by_all_that_build_imports(edited):
  config = mlp.get_config('l1_magnitude')
  before = code_hash(config)
  for name in ('experiments.names', 'sparsejax.regularisers.iterative_magnitude'):
    assert edited(name, 'from __future__', 'X = 1\nfrom __future__', config) == before, name
  for name in ('sparsejax.regularisers.l1', 'sparsejax.regularisers.magnitude'):
    assert edited(name, 'from __future__', 'X = 1\nfrom __future__', config) != before, name


def test_what_prints_or_plots_is_not_followed():
  found = closure(module.CORE)
  assert not [name for name in found if '.report' in name or 'progress' in name]
  assert all(isinstance(module._path(name), pathlib.Path) for name in found)
  assert {'sparsejax.apply', 'sparsejax.paths', 'sparsejax.regulariser'} <= found


def test_a_module_without_source_is_named():
  with pytest.raises(ValueError, match='sparsejax.none has no source file'):
    closure(['sparsejax.none'])


def test_what_each_schedule_uses_is_listed_for_all_of_them():
  assert module.SCHEDULES_USE.keys() == schedules.SCHEDULES.keys()
  for modules, names in module.SCHEDULES_USE.values():
    assert all(hasattr(schedules, name) for name in names)
    assert module.closure(modules) >= set(modules)


def test_another_loss_is_other_code():
  config = l0_mlp.get_config()
  plain = module.code_hash(config)
  assert module.code_hash(config, ('sparsejax.transfer.distillation',)) != plain
  assert module.code_hash(config, ()) == plain
