"""The benchmarks of both papers: their facts, their files, their published numbers. No jax."""
