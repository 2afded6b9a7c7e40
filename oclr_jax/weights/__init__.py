"""Weights on disk: their files, their descriptions, where they are found."""
