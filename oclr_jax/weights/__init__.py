"""Files of weights: how they are found, read, described and written."""
