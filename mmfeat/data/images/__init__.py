"""Images by name: in folders and archives, their bytes and their copies."""
