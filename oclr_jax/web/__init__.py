"""The local page: videos in, a player with corrections, results out. Nothing leaves the machine."""
