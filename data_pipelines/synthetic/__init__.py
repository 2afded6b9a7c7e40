"""Layered synthetic video: a scene is sampled as a plain record, then rendered with exact truth."""

from data_pipelines.synthetic.render import Sample, render
from data_pipelines.synthetic.scene import Scene, SceneConfig, sample_scene

# Changes whenever the same seed would give other bytes; stored in datasets and in weights.
DATA_VERSION = "1.0.0"

__all__ = ["DATA_VERSION", "Sample", "Scene", "SceneConfig", "render", "sample_scene"]
