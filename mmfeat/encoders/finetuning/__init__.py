"""Fine-tuning of one encoder with a linear probe; knows no project and no store."""
