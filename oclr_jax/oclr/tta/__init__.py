"""Test-time adaptation: appearance carries the flow model's masks over a video (supplement C)."""
