"""Sweeps: what is varied, which members make one program, how they are run, and their front."""
