"""The report of a run, from its folder alone: `python -m experiments.report --workdir=DIR`."""
