"""Files of weights: what is read back is, bit for bit, what was written."""
from sparsejax.codec.atomic import write_atomically
from sparsejax.codec.container import Container
from sparsejax.codec.files import Loaded, read, read_model, read_provenance, write
from sparsejax.codec.files import open_container as open
from sparsejax.codec.weights_file import float32_bytes

__all__ = ['Container', 'Loaded', 'float32_bytes', 'open', 'read', 'read_model', 'read_provenance',
           'write', 'write_atomically']
