"""What there is at a path: pictures in folders, globs, zips and tars, under their names."""
