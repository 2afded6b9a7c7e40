"""Refinement of tracks by appearance, the second paper."""
