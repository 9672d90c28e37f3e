"""Runs on disk, ensembles, comparisons and sweeps."""
