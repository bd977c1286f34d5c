"""The upscaling engine: what a job is, its stages, and one run on it."""
