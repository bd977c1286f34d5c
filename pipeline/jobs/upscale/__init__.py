"""Upscale: units of items, planned, computed and recorded."""
