"""Sweeps on clusters: a job array of SLURM, one task a program."""
