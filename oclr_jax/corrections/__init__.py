"""Corrections of a result that need no drawing: stored as a list, replayed, and undone."""
