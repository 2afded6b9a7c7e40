"""The benchmarks of both papers: descriptions, file layouts and published figures. No jax."""
