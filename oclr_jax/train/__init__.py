"""Training: state, schedule, the compiled step, and the only loop."""
