"""How a JPEG file is built, and whether all of its data is there."""
