"""Loaders: stored or rendered sequences to training batches, with grain."""
