"""Flax Linen modules, one idea a file."""
