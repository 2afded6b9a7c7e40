"""OCLR in JAX: find, track and segment the moving objects of a video, and order them in depth."""

__version__ = "0.2.0"


def __getattr__(name: str):
    # Lazy: data workers import `oclr_jax.types` and `oclr_jax.flow` without loading jax.
    if name == "segment_video":
        from oclr_jax.pipeline import segment_video

        return segment_video
    raise AttributeError(f"module 'oclr_jax' has no attribute {name!r}")
