"""mmfeat.toml: its settings with their defaults, and the reader that checks them."""
