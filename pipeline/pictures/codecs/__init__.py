"""One file a format: the one home of Pillow, tifffile and imagecodecs.

What belongs here: bytes of a file to pixels and metadata, and back, one format at a time; and what
else the libraries do with pixels. Not: what a format is called and can hold (`formats`), what all
of them have in common (`files`), nor how metadata is fitted to a format (`travel`).
"""
