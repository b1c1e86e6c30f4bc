"""The keys of a ledger and what each means: a flat JSON object, lower-case keys, unit in the name.

Version 1. A key is never removed or given another meaning within a version.
"""
from __future__ import annotations

from typing import NamedTuple

LEDGER_VERSION = 1


class Key(NamedTuple):
  """Type of a value, (list, type of an item) for lists, and its meaning with the unit.

  `optional` values may be null, where what they measure does not exist. `added` keys came after
  the first ledgers of this version and may be missing.
  """
  type: type | tuple[type, type]
  meaning: str
  optional: bool = False
  added: bool = False


KERNEL_DENOMINATOR = 'kernel entries of the dense network, biases apart'
PARAMETER_DENOMINATOR = 'all entries of the parameters of the dense network'
STRUCTURE_DENOMINATOR = ('kernel entries of embedding, cells and output layer of the dense '
                         'network, biases apart')
BYTES_DENOMINATOR = 'bytes of the dense network in a plain float32 safetensors file'

_RUN = {
    'ledger_version': Key(int, 'version of these keys'),
    'dataset': Key(str, 'name of the data set'),
    'data_hash': Key(str, 'checksum of the data'),
    'config': Key(str, 'name or path of the configuration'),
    'config_hash': Key(str, 'checksum of the configuration with every override'),
    'seed': Key(int, 'seed of the run'),
    'commit': Key(str, "git commit of the running code, '-dirty' if changed, or 'unknown'"),
    'device': Key(str, 'backend, count and kind of the devices'),
    'mesh': Key(str, "devices on which the training ended where there were several: 'data:2' "
                "shared each batch, 'members:2' the members of a sweep", added=True),
    'mesh_processes': Key(int, 'processes that these devices belonged to', added=True),
    'threads': Key(int, 'threads the host may use'),
    'threads_source': Key(str, 'how `threads` was found'),
    'jax_version': Key(str, 'version'),
    'jaxlib_version': Key(str, 'version'),
    'flax_version': Key(str, 'version'),
    'optax_version': Key(str, 'version'),
    'numpy_version': Key(str, 'version'),
    'python_version': Key(str, 'version'),
    'time_utc': Key(str, 'when the ledger was made, ISO 8601'),
    'epochs': Key(int, 'passes over the training data'),
    'wall_seconds': Key(float, 'seconds of training, compilation included'),
    'deployed_parameters': Key(str, "'raw' as trained, 'ema' their exponential moving average"),
    'simulated': Key((list, str), 'keys of this ledger behind which stands only a mask or label'),
}

_QUALITY = {
    'validation_error_percent': Key(
        float, 'error on the validation set, percent; null where nothing was held out', True),
    'selected_by': Key(str, 'what chose this network among its epochs or siblings'),
    'warnings': Key((list, str), 'what the watchdogs had to say of the whole training', added=True),
    'target': Key(str, 'what the strengths were moved to meet: density, bytes (of the container), '
                  'validation_error_percent', added=True),
    'target_value': Key(float, 'the value that was wanted of it', added=True),
    'target_reached': Key(float, 'the value that was got', added=True),
    'target_relative_difference': Key(float, 'target_reached / target_value - 1', added=True),
    'target_natural_density': Key(
        float, 'density that the strengths had reached by themselves before what stays was chosen '
               'by rank; absent where nothing was', added=True),
    'target_weights_cut': Key(int, 'weights that choices by rank set to zero, in sum', added=True),
    'target_weights_reopened': Key(
        int, 'zero weights that choices by rank took back, in sum', added=True),
    'test_error_percent': Key(float, 'error of the deployed network on the test set, percent'),
    'test_nll_nats': Key(
        float, 'mean negative log-likelihood, nats per label: of a test example, or of its tokens'),
    'test_bits_per_token': Key(
        float, 'test_nll_nats / ln 2 of a language model: bits per character or word', added=True),
    'test_perplexity': Key(float, 'exp(test_nll_nats) of a language model', added=True),
    'test_expected_calibration_error_percent': Key(float, '15 equal-width bins, percent'),
    'test_brier': Key(float, 'mean squared distance to the one-hot label, 0 to 2'),
}

_SIZE = {
    'weights_total': Key(int, 'kernel entries of the dense network, biases apart'),
    'weights_kept': Key(int, 'non-zero kernel entries of the deployed network, biases apart'),
    'compression_weights': Key(float, 'weights_total / weights_kept'),
    'compression_weights_denominator': Key(str, 'what the ratio is relative to'),
    'structure_total': Key(int, 'weights of embedding, cells and output layer of a recurrent '
                           'network, biases apart', added=True),
    'structure_kept': Key(int, 'non-zero ones of them after those of words, inputs and units that '
                          'nothing reads were taken away', added=True),
    'compression_structure': Key(
        float, 'structure_total / structure_kept: how papers on recurrent networks count; missing '
        'where nothing is kept', added=True),
    'compression_structure_denominator': Key(str, 'what the ratio is relative to', added=True),
    'architecture_kept': Key((list, int), 'kept outputs of convolutions, kept inputs elsewhere'),
    'parameters_dense': Key(int, 'all entries of the parameters of the dense network'),
    'parameters_compact': Key(int, 'all entries of the parameters of the compact network'),
    'compression_parameters': Key(float, 'parameters_dense / parameters_compact'),
    'compression_parameters_denominator': Key(str, 'what the ratio is relative to'),
    'exact_zeros': Key(int, 'zero entries of the parameters of the deployed dense network'),
    'flops_dense': Key(int, '2 x multiply-adds of the linear layers, one example, dense network'),
    'flops_compact': Key(int, 'the same of the compact network'),
    'bytes_float32': Key(int, 'bytes of the dense network in a plain float32 safetensors file'),
    'bytes_file': Key(int, 'bytes of the file the compact network was read back from'),
    'file_sha256': Key(str, 'checksum of that file, hexadecimal'),
    'compression_bytes': Key(float, 'bytes_float32 / bytes_file'),
    'compression_bytes_denominator': Key(str, 'what the ratio is relative to'),
    'bytes_zstd': Key(int, 'bytes of the compact network as plain arrays under Zstandard, level 19',
                      added=True),
    'compression_zstd': Key(float, 'bytes_float32 / bytes_zstd', added=True),
    'compression_zstd_denominator': Key(str, 'what the ratio is relative to', added=True),
    'bytes_coded': Key(int, 'bytes of the container (.sjx) of the compact network', added=True),
    'coded_sha256': Key(str, 'checksum of the container, hexadecimal', added=True),
    'compression_coded': Key(float, 'bytes_float32 / bytes_coded', added=True),
    'compression_coded_denominator': Key(str, 'what the ratio is relative to', added=True),
    'bytes_described': Key(
        float, 'description length of the compact weights: codes, codebooks and positions at the '
        'entropy bound, headers and tables apart, bytes', added=True),
    'compact_relative_difference': Key(
        float, 'max|logit of compact network from file - dense logit| / max|dense logit|'),
}

_SPEED = {'ms_repeats': Key(int, 'timed calls behind each median')} | {
    f'ms_{network}_batch{size}{suffix}': Key(float, f'milliseconds a call, {size} examples, {what}')
    for size in (1, 128) for network in ('dense', 'compact')
    for suffix, what in (('', 'median'), ('_lower_quartile', 'lower quartile'),
                         ('_upper_quartile', 'upper quartile'))
}

KEYS: dict[str, Key] = _RUN | _QUALITY | _SIZE | _SPEED | {
    'layers': Key((list, dict), 'one row of LAYER_KEYS per linear layer of the deployed network'),
    'packed_layers': Key((list, dict), 'one row of PACKED_KEYS per weight that was to be packed',
                         added=True),
} | {
    f'ms_train_step_{network}{suffix}': Key(
        float, f'milliseconds of a training step, {what}, {end}', added=True)
    for network, what in (('dense', 'every entry trained'),
                          ('masked', 'dense weights times a mask in every step'),
                          ('packed', 'the packed weights trained, pattern fixed'))
    for suffix, end in (('', 'median'), ('_lower_quartile', 'lower quartile'),
                        ('_upper_quartile', 'upper quartile'))
}

PACKED_KEYS: dict[str, Key] = {
    'path': Key(str, "'/'-joined path of the weight"),
    'packed': Key(bool, 'whether the file holds it in packed form'),
    'kind': Key(str, 'the packed form'),
    'block_size': Key((list, int), 'inputs and outputs of a block'),
    'density': Key(float, 'fraction of the blocks that are stored'),
    'reason': Key(str, 'why it was packed or left dense'),
}

LAYER_KEYS: dict[str, Key] = {
    'layer': Key(str, "'/'-joined path"),
    'kind': Key(str, 'class of the layer'),
    'kernel_shape': Key((list, int), 'shape of the kernel'),
    'weights_total': Key(int, 'kernel entries'),
    'weights_kept': Key(int, 'non-zero kernel entries'),
    'parameters': Key(int, 'all entries of the layer'),
    'biases': Key(int, 'bias entries'),
    'exact_zeros': Key(int, 'zero entries of the layer, bias included'),
    'inputs_kept': Key(int, 'input slices of the kernel that are not all zero'),
    'outputs_kept': Key(int, 'output slices of the kernel that are not all zero'),
    'flops': Key(int, '2 x multiply-adds of one example, kernel dense'),
}
