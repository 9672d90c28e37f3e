"""Samples: the manifest, readers of sources, images, row keys, splits and corrections. Imports no torch."""
