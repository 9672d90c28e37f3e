"""Self-training on cached arrays."""
