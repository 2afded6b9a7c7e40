"""Paper 1: layers per window, tracked over the video."""
