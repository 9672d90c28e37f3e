"""The fit of heads: one, several seeds, or many variants in one vectorised pass."""
