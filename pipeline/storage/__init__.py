"""What upres keeps on disk: archives (Zarr), ledgers (SQLAlchemy), files written in one piece."""
