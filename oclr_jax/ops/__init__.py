"""Pure functions on arrays: losses, matching, layering, metrics. Knows no Flax."""
