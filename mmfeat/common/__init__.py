"""What every package shares: errors, files, text, progress, digests and seals. Imports nothing else of mmfeat."""
