"""Letting go: deleting pixels that nothing needs any more, once it is recorded what they were."""
