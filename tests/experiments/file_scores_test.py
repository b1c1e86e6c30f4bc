"""A network in a file scores as it does in memory, by hand, with nothing but the file."""
import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import datasets
from experiments.file_scores import preprocess_of, score_file
from sparsejax import codec
from sparsejax.models import MLP


@pytest.fixture(scope='module')
def network():
  """An untrained network on the embedded digits, and its test error and NLL by NumPy."""
  data = datasets.load('digits')
  shape = data.test_images.shape[1:]
  model = MLP((5,))
  variables = jax.device_get(model.init(jax.random.key(0), np.zeros((1, *shape), np.float32)))
  facts = {'dataset': 'digits', 'input_shape': list(shape), 'input_dtype': 'float32',
           'preprocess': 'images', 'scale': 1 / 16,
           'mean': np.full(shape, 3.0, np.float32)}
  x = (data.test_images.reshape(len(data.test_images), -1).astype(np.float64) - 3) / 16
  params = variables['params']
  hidden = np.maximum(x @ params['dense0']['kernel'] + params['dense0']['bias'], 0)
  logits = hidden @ params['head']['kernel'] + params['head']['bias']
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  error = 100 * np.mean(log_p.argmax(1) != data.test_labels)
  return model, variables, facts, error, -log_p[np.arange(len(x)), data.test_labels].mean()


def test_the_file_scores_as_the_network_does(network, tmp_path, capsys):
  model, variables, facts, error, nll = network
  path = tmp_path / 'model.sjx'
  size = codec.write(path, variables, model=model, facts=facts)
  found = score_file(path, console=Console(width=100))
  # Float32 against float64: one of 1e3 images may change sides.
  assert abs(found['test_error_percent'] - error) < 0.15
  np.testing.assert_allclose(found['test_nll_nats'], nll, rtol=1e-5)
  assert found['dataset'] == 'digits' and found['bytes_file'] == size == path.stat().st_size
  assert f'{found["test_error_percent"]:.2f} %' in capsys.readouterr().out


def test_what_the_file_does_not_say_is_named(network, tmp_path):
  model, variables, facts, _, _ = network
  path = tmp_path / 'model.sjx'
  codec.write(path, variables, model=model)
  with pytest.raises(ValueError, match='does not say its dataset, input_shape, preprocess'):
    score_file(path)
  codec.write(path, variables, model=model, facts=facts)
  with pytest.raises(ValueError, match='embedded_text has examples of shape'):
    score_file(path, 'embedded_text')
  with pytest.raises(ValueError, match="unknown data set 'digit'; .*did you mean 'digits'"):
    score_file(path, 'digit')
  with pytest.raises(ValueError, match="preprocess='sound' with .* is unknown"):
    preprocess_of({'preprocess': 'sound'})


def test_tokens_become_integers():
  assert preprocess_of({'preprocess': 'tokens'})(np.uint8([[3]])).dtype == np.int32
