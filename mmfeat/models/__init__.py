"""Runs, ensembles and their figures."""
