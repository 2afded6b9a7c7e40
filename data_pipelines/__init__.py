"""Synthetic layered video, TFDS builders and grain loaders; never imports jax."""
