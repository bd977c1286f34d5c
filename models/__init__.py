"""Networks, and what is known of each.

This package knows torch and nothing else of upres: no files of a job, no tiles, no command line.
"""
