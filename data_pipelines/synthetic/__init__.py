"""Synthetic layered video: scenes are sampled as plain records and rendered with ground truth."""

from data_pipelines.synthetic.plan import SceneKind
from data_pipelines.synthetic.render import Sample, render
from data_pipelines.synthetic.sampling import compose_scene, sample_scene
from data_pipelines.synthetic.scene import Scene, SceneConfig
from data_pipelines.synthetic.sources import Sources, open_sources

# Must change whenever the same seed would give other data; stored in datasets and weights.
DATA_VERSION = "2.0.0"

__all__ = [
    "DATA_VERSION",
    "Sample",
    "Scene",
    "SceneConfig",
    "SceneKind",
    "Sources",
    "compose_scene",
    "open_sources",
    "render",
    "sample_scene",
]
