"""Weights and training state on disk, and the import of released PyTorch files."""
