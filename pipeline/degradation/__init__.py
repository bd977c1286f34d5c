"""Degradations: how HR patches become LR ones, as chains of steps."""
