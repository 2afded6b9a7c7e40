"""Loaders: training batches from stored or rendered sequences, with grain."""
