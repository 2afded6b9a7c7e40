"""What a training run writes for people: journal, curves, strips, report page."""
