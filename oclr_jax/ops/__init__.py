"""Pure functions on arrays: losses, matching, layering, metrics. No Flax."""
