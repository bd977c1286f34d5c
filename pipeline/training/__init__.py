"""Training: from a dataset to a checkpoint, resumable at any step."""
