"""Configs by name, with a seed."""
import pytest

from experiments.configs.digits import l0_mlp
from experiments.evidence.configs import CONFIGS, load_config


def test_a_config_by_name_is_that_of_its_file():
  assert load_config('digits/l0_mlp').to_dict() == l0_mlp.get_config().to_dict()
  assert load_config('digits/l0_mlp:smoke').to_dict() == l0_mlp.get_config('smoke').to_dict()
  assert load_config('digits/l0_mlp').to_dict() != load_config('digits/l0_mlp:smoke').to_dict()


def test_the_seed_alone_is_changed():
  config = load_config('digits/l0_mlp', seed=7)
  assert config.to_dict() == l0_mlp.get_config().to_dict() | {'seed': 7}
  assert load_config('digits/l0_mlp').seed == l0_mlp.get_config().seed != 7


def test_two_calls_share_nothing():
  config = load_config('digits/l0_mlp')
  config.epochs = 999
  assert load_config('digits/l0_mlp').epochs != 999


def test_an_unknown_file_gets_the_nearest_and_all():
  with pytest.raises(ValueError, match=r"no config 'digits/l0_mpl'; did you mean digits/l0_mlp\? "
                                       r'configs are ') as caught:
    load_config('digits/l0_mpl:smoke')
  listed = str(caught.value).partition('configs are ')[2].split(', ')
  files = [file for file in CONFIGS.glob('*/*.py') if file.name != '__init__.py']
  assert listed == sorted(f'{file.parent.name}/{file.stem}' for file in files)


def test_an_unknown_variant_is_the_files_own_error():
  with pytest.raises(ValueError, match="variant 'nonsense' is not"):
    load_config('digits/l0_mlp:nonsense')
