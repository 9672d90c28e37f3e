"""Images of a project: found by name in folders and archives, their bytes, their copies."""
