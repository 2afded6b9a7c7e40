"""What a training writes for people: metrics, curves, strips and the report."""
