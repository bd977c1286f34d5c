"""Training: from a dataset to a checkpoint, resumable at any step.

`loop` makes the steps of a `session`. `batches` bring patches, `descent` moves weights by what
`objective` counts, `review` validates and records, `checkpoints` write what `state` resumes from.
"""
