"""A project's folder: configuration, manifest, store, keys, lineage and staleness."""
