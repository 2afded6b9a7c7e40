"""TFDS builders; `tfds.builder_from_directory` reads their data without TensorFlow."""
