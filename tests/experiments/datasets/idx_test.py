"""The IDX reader against files laid out by hand, whole and damaged in each way."""
import gzip

import numpy as np
import pytest

from experiments.datasets import idx


def _write(tmp_path, data):
  path = tmp_path / 'some-idx.gz'
  path.write_bytes(data)
  return path


def test_reads_a_hand_written_file(tmp_path):
  # magic 0x00000803, two images of 2 rows by 3 columns, then 0..11 row by row
  data = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(12))
  array = idx.read(_write(tmp_path, gzip.compress(data)), dimensions=3)
  assert array.dtype == np.uint8
  np.testing.assert_array_equal(array, [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]])


def test_reads_labels_and_sizes_above_one_byte(tmp_path, idx_bytes):
  labels = np.arange(300) % 10             # 300 needs two bytes of the big-endian size
  array = idx.read(str(_write(tmp_path, idx_bytes(labels))), dimensions=1)
  np.testing.assert_array_equal(array, labels)


def test_reads_an_empty_array(tmp_path, idx_bytes):
  path = _write(tmp_path, idx_bytes(np.zeros((0, 28, 28))))
  assert idx.read(path, dimensions=3).shape == (0, 28, 28)


@pytest.mark.parametrize('payload, message', [
    (bytes(11), r'truncated: the header says \(2, 2, 3\), which is 12 bytes, but 11 follow; del'),
    (bytes(13), r'too long: the header says \(2, 2, 3\), which is 12 bytes, but 13 follow; del'),
])
def test_payload_of_another_length_is_refused(tmp_path, payload, message):
  header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3])
  path = _write(tmp_path, gzip.compress(header + payload))
  with pytest.raises(ValueError, match=message) as caught:
    idx.read(path, dimensions=3)
  assert str(path) in str(caught.value)


def test_sizes_whose_product_overflows_64_bits_are_refused(tmp_path):
  data = bytes([0, 0, 8, 3]) + b'\xff' * 12
  with pytest.raises(ValueError, match='truncated: the header says'):
    idx.read(_write(tmp_path, gzip.compress(data)), dimensions=3)


@pytest.mark.parametrize('data, message', [
    (b'', 'truncated: 0 bytes after gunzip'),
    (bytes([0, 0, 8]), 'truncated: 3 bytes after gunzip, too few'),
    (bytes([0, 0, 8, 3, 0, 0, 0, 2]), 'truncated: 8 bytes .* but the header alone takes 16'),
])
def test_short_header_is_refused(tmp_path, data, message):
  with pytest.raises(ValueError, match=message):
    idx.read(_write(tmp_path, gzip.compress(data)), dimensions=3)


def test_images_in_place_of_labels_name_both_magic_numbers(tmp_path, idx_bytes):
  path = _write(tmp_path, idx_bytes(np.zeros((2, 3, 3))))
  with pytest.raises(ValueError, match='magic number 0x00000803, expected 0x00000801.*exchanged'):
    idx.read(path, dimensions=1)


def test_floats_and_other_formats_are_refused(tmp_path):
  floats = bytes([0, 0, 0x0D, 1, 0, 0, 0, 1]) + bytes(4)
  for data in (floats, b'\x89PNG\r\n\x1a\n'):
    with pytest.raises(ValueError, match='expected 0x00000801'):
      idx.read(_write(tmp_path, gzip.compress(data)), dimensions=1)


def test_truncated_gzip_is_refused_wherever_it_ends(tmp_path, idx_bytes):
  whole = idx_bytes(np.random.default_rng(0).integers(0, 256, (4, 5, 5)))
  for size in range(1, len(whole)):
    with pytest.raises(ValueError, match='truncated|not an intact gzip file'):
      idx.read(_write(tmp_path, whole[:size]), dimensions=3)


def test_any_flipped_byte_of_the_stream_is_refused(tmp_path, idx_bytes):
  # Bytes 0-2 are gzip's magic number and method; from 10 on come the stream, its CRC-32 and length.
  # Bytes 3-9 are flags, time and system, of which nothing is read.
  whole = idx_bytes(np.random.default_rng(1).integers(0, 256, (4, 5, 5)))
  for position in (0, 1, 2, *range(10, len(whole))):
    damaged = bytearray(whole)
    damaged[position] ^= 0xFF
    with pytest.raises(ValueError, match='some-idx.gz: .*; delete the file and fetch it again'):
      idx.read(_write(tmp_path, bytes(damaged)), dimensions=3)


def test_plain_bytes_are_not_taken_for_gzip(tmp_path):
  with pytest.raises(ValueError, match='not an intact gzip file'):
    idx.read(_write(tmp_path, bytes([0, 0, 8, 1, 0, 0, 0, 1, 7])), dimensions=1)


def test_missing_file_stays_a_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError):
    idx.read(tmp_path / 'absent.gz', dimensions=1)
