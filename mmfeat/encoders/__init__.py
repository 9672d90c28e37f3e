"""Encoders turn images and captions into embeddings: encoder kinds, families of networks, checkpoints, fine-tuning."""
