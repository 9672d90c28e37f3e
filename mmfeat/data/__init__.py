"""Samples: manifest, readers, image sources, row keys, splits, synonyms. Imports no torch."""
