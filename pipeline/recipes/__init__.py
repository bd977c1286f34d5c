"""The recipes that come with upres, and what their keys mean."""
