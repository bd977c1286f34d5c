"""Ingest: from picture files to items of an LR archive, alone or in stacks."""
