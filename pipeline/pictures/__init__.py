"""Files to pixels and back: formats, colour, metadata, and how alike two pictures are."""
