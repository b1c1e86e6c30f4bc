"""Files of weights: what is read back is, bit for bit, what was written."""
from sparsejax.codec.atomic import write_atomically
from sparsejax.codec.weights_file import float32_bytes, read, read_provenance, write

__all__ = ['float32_bytes', 'read', 'read_provenance', 'write', 'write_atomically']
