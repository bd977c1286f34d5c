"""Clusters that a user has given a name: one file a kind, and the TOML file that describes them."""
