"""Packed weights: exact arrays in a small form, one kind a file; `grids` rounds to some of them."""
