"""Export: from finished items of an SR archive to picture files, on a disk or in a bucket."""
