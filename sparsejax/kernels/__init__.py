"""Kernels: products whose cost follows the zeros."""
