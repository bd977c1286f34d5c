"""Pixels, tiles, stores: everything between a picture file and a picture file.

Knows nothing of the command line (click) or of flows (Prefect).
"""
