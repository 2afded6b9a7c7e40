"""Training: state, schedule, the compiled step, `fit` in memory, and the loop."""
