"""Every key is checked, every damage named, and what is written is read."""
import json
import re

import numpy as np
import pytest

from sparsejax import ledger


def test_written_is_read(whole, tmp_path):
  path = tmp_path / 'ledger.json'
  assert ledger.write(path, whole) == path.stat().st_size
  assert ledger.read(path) == whole
  assert list(json.loads(path.read_text())) == [
      key for key, about in ledger.KEYS.items() if not about.added]


def test_every_missing_key_is_named(whole):
  for key in (key for key, about in ledger.KEYS.items() if not about.added):
    broken = {k: v for k, v in whole.items() if k != key}
    with pytest.raises(ValueError, match=f'{key} is missing; add it'):
      ledger.validate(broken)


def test_keys_added_later_may_be_missing_but_not_wrong(whole):
  row = {'path': 'a/kernel', 'packed': True, 'kind': 'BlockSparse', 'block_size': [8, 8],
         'density': 0.1, 'reason': 'packed'}
  ledger.validate(whole | {'packed_layers': [row]})
  with pytest.raises(ValueError, match=r'packed_layers\[0\]\.density is a str'):
    ledger.validate(whole | {'packed_layers': [row | {'density': 'low'}]})
  with pytest.raises(ValueError, match='ms_train_step_dense and its quartiles are out of order'):
    ledger.validate(whole | {'ms_train_step_dense': 1.0, 'ms_train_step_dense_lower_quartile': 2.0,
                             'ms_train_step_dense_upper_quartile': 3.0})


def test_every_wrong_type_is_named(whole):
  for key, entry in ledger.KEYS.items():
    for wrong in (() if entry.optional else (None,)) + (True, np.float32(1), {'a': 1}, (1, 2)):
      with pytest.raises(ValueError, match=rf'\b{key} is a {type(wrong).__name__}'):
        ledger.validate(whole | {key: wrong})


def test_every_float_must_be_finite(whole):
  floats = [key for key, entry in ledger.KEYS.items() if entry.type is float]
  assert len(floats) > 15
  for key in floats:
    for value in (float('nan'), float('inf')):
      with pytest.raises(ValueError, match=f'{key} is {value}; give a finite number'):
        ledger.validate(whole | {key: value})


def test_a_whole_number_will_do_for_a_float(whole):
  ledger.validate(whole | {'wall_seconds': 2})


def test_an_unknown_key_gets_a_suggestion(whole):
  with pytest.raises(ValueError, match='test_eror_percent is unknown; did you mean test_error_'):
    ledger.validate(whole | {'test_eror_percent': 1.0})
  with pytest.raises(ValueError, match='zzz is unknown; remove it'):
    ledger.validate(whole | {'zzz': 1.0})


def test_rows_are_checked(whole):
  rows = [dict(row) for row in whole['layers']]
  del rows[1]['flops']
  rows[2]['kernel_shape'] = [5, 3.0]
  with pytest.raises(ValueError) as caught:
    ledger.validate(whole | {'layers': rows})
  assert 'layers[1].flops is missing' in str(caught.value)
  assert 'layers[2].kernel_shape holds 3.0; give int items' in str(caught.value)
  with pytest.raises(ValueError, match='layers holds 3; give dict items'):
    ledger.validate(whole | {'layers': [3]})


@pytest.mark.parametrize('change, message', [
    ({'ledger_version': 2}, 'ledger_version is 2; give 1'),
    ({'deployed_parameters': 'average'}, "deployed_parameters is 'average'; give 'raw' or 'ema'"),
    ({'simulated': ['bytes']}, "simulated names 'bytes'"),
    ({'compression_weights': 99.0}, 'compression_weights is 99.0 but weights_total / weights'),
    ({'compression_bytes': 99.0}, r'compression_bytes is 99.0 but bytes_float32 / bytes_file'),
    ({'parameters_compact': 1}, r'compression_parameters is .* 91 / 1'),
    ({'ms_dense_batch1_lower_quartile': 1e9}, 'ms_dense_batch1 and its quartiles are out of order'),
    ({'test_bits_per_token': 99.0}, 'test_bits_per_token is 99.0 but test_nll_nats is'),
    ({'layers': []}, 'weights_kept is 37 but its layers sum to 0'),
])
def test_contradictions_are_named(whole, change, message):
  with pytest.raises(ValueError, match=message):
    ledger.validate(whole | change)


def test_assemble_refuses_a_key_given_twice():
  with pytest.raises(ValueError, match='seed comes from two parts'):
    ledger.assemble({'seed': 1}, {'seed': 1})


def test_a_ledger_that_does_not_validate_is_not_written(whole, tmp_path):
  with pytest.raises(ValueError, match='seed is a float'):
    ledger.write(tmp_path / 'ledger.json', whole | {'seed': 1.0})
  with pytest.raises(ValueError, match='gone does not exist'):
    ledger.write(tmp_path / 'gone' / 'ledger.json', whole)
  assert list(tmp_path.iterdir()) == []


def test_damage_names_the_file(whole, tmp_path):
  path = tmp_path / 'ledger.json'
  ledger.write(path, whole)
  text = path.read_text()
  for broken, message in [
      (text[:len(text) // 2], 'is damaged'),
      ('', 'is damaged'),
      ('\udcff', 'is damaged'),
      ('[1]', 'holds a JSON list'),
      (text.replace('{', '{"seed": 3, ', 1), 'key seed stands twice'),
      (text.replace('"ledger_version": 1', '"ledger_version": 7'), 'has ledger_version 7'),
      (text.replace('"seed": 3', '"seed": NaN'), 'seed is a float, nan'),
      (text.replace('"seed": 3', '"sead": 3'), 'sead is unknown; did you mean seed'),
  ]:
    path.write_bytes(broken.encode(errors='surrogateescape'))
    with pytest.raises(ValueError, match='ledger.json') as caught:
      ledger.read(path)
    assert message in str(caught.value)


def test_truncation_at_every_length_is_an_error(whole, tmp_path):
  path = tmp_path / 'ledger.json'
  ledger.write(path, whole)
  data = path.read_bytes()
  for length in range(len(data) - 1):                    # the last byte is the final newline
    path.write_bytes(data[:length])
    with pytest.raises(ValueError, match='ledger.json is damaged'):
      ledger.read(path)


def test_keys_are_lower_case_flat_and_hold_what_is_promised():
  promised = """ledger_version dataset data_hash config config_hash seed commit device threads
    jax_version epochs validation_error_percent selected_by test_error_percent test_nll_nats
    test_expected_calibration_error_percent test_brier weights_total weights_kept
    compression_weights compression_weights_denominator architecture_kept parameters_dense
    parameters_compact compression_parameters exact_zeros flops_dense flops_compact bytes_float32
    bytes_file compression_bytes compression_bytes_denominator compact_relative_difference
    deployed_parameters simulated wall_seconds layers""".split()
  promised += [f'ms_{network}_batch{size}{end}' for network in ('dense', 'compact')
               for size in (1, 128) for end in ('', '_lower_quartile', '_upper_quartile')]
  assert set(promised) <= set(ledger.KEYS)
  for key, entry in (ledger.KEYS | ledger.LAYER_KEYS).items():
    assert re.fullmatch('[a-z][a-z0-9_]*', key) and entry.meaning


def test_validation_error_is_null_where_nothing_was_held_out(whole):
  ledger.validate(whole | {'validation_error_percent': None})
  with pytest.raises(ValueError, match='test_error_percent'):
    ledger.validate(whole | {'test_error_percent': None})
