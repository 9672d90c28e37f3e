"""Fits heads: one head, several seeds, or many variants in one vectorised pass."""
