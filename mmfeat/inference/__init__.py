"""From the name of a run or an encoder to logits, predicted labels and rankings."""
