"""Numbers and names that several rooms must agree on."""

from __future__ import annotations

DEFAULT_MODEL = "auto"

LEAST_TILE_PX, DEFAULT_TILE_PX, MOST_TILE_PX = 16, 512, 8192
"""LR pixels of a tile's side."""

LEAST_LIMIT_S, DEFAULT_LIMIT_S, MOST_LIMIT_S = 0.1, 1800.0, 1e7
"""How long one unit may take before it counts as hanging."""

PREPARE = "prepare"
"""Name of the table of a recipe that says how its dataset is prepared."""

MEMORIES = ("auto", "disk", "ram", "gpu")
"""Where patches are kept for reading: `auto` is the fastest of the others that holds them."""

KEEP_ALL, KEEP_SR, KEEP_EXPORT = KEEPS = ("all", "sr", "export")
"""What remains of a finished picture: all its pixels, those of SR, or its exported file."""

JOB_LOCK = "lock"
"""The file in a job's folder that a run holds while it goes on."""

JPEGXL, ZSTD = CODECS = ("jpegxl", "zstd")
"""How the arrays of an archive may be compressed, always without loss."""
