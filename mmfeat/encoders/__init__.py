"""From an image or a caption to an embedding: families, weights, checkpoints, fine-tuning."""
