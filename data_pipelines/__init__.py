"""Synthetic layered video, TFDS builders and the grain loader; never loads jax."""
