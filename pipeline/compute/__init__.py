"""What computes: Dask clusters, devices, backends, and networks applied to windows of pixels."""
