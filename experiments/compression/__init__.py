"""What `experiments.compress` does to a finished run: one recipe a file, listed in `recipes.py`."""
