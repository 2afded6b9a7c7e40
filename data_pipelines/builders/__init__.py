"""TFDS builders; readable without TensorFlow through `tfds.builder_from_directory`."""
