"""Adaptation of the flow model to footage without annotations; the recipe is in `run.py`."""
