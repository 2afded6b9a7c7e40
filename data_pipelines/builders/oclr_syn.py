"""The TFDS dataset `oclr_syn`: layered synthetic video with exact and estimated flow.

The layout follows the `davis` builder (`video/frames`, `video/segmentations`, `metadata`). Every
sequence is a function of (seed, split, index) alone: it does not depend on which process renders
it or which other sequences are rendered.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter

from data_pipelines.builders.card import write_card
from data_pipelines.builders.examples import encode_sample, features
from data_pipelines.builders.records import FILE_FORMAT, RecordWriter
from data_pipelines.synthetic import (
    DATA_VERSION,
    Sample,
    SceneConfig,
    SceneKind,
    Sources,
    compose_scene,
    render,
)
from data_pipelines.synthetic.plan import BACKGROUNDS, scene_kind
from data_pipelines.synthetic.sources import PROCEDURAL
from oclr_jax.errors import UserError
from oclr_jax.flow.estimator import FlowEstimator

# The second seed of the generators of a split; must never change.
SPLIT_IDS = {"train": 0, "validation": 1, "online": 2}

MIN_SEEN = 0.001  # smallest visible area of an object in its best frame, fraction of the frame
_ATTEMPTS = 20  # scenes sampled for one sequence; about one in forty hides an object

_DESCRIPTION = """
Synthetic video of one to three moving, overlapping, deforming objects over a moving background,
with exact and estimated optical flow, modal and amodal masks, depth order and visibility.
"""


@dataclasses.dataclass(eq=False)
class OclrSynConfig(tfds.core.BuilderConfig):
    """Which scenes to render, and how many."""

    scene: SceneConfig = dataclasses.field(default_factory=SceneConfig)  # sizes, length, ranges
    splits: Mapping[str, int] = dataclasses.field(default_factory=dict)  # sequences per split
    objects: tuple[int, ...] = (1, 2, 3)  # numbers of objects, in turn
    backgrounds: tuple[str, ...] = BACKGROUNDS  # "image", "video" or both
    sequences_per_shard: int = 16  # an interrupted build repeats at most one shard per process

    def kind(self, index: int) -> SceneKind:
        """The kind of scene of sequence `index` of any split."""
        return scene_kind(index, self.objects, self.backgrounds)


@runtime_checkable
class Recipe(Protocol):
    """Makes the examples of a dataset; it is pickled to the processes that write them."""

    def settings(self) -> dict[str, Any]:
        """Everything that the data depend on, as JSON values; stored as metadata."""

    def examples(self, split: str, indices: range) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields sequences of a split as (index, example of `features`)."""


@dataclasses.dataclass(frozen=True)
class Rendering:
    """The recipe of synthetic sequences; each is a function of (seed, split, index) alone."""

    config: OclrSynConfig  # what to render
    seed: int  # first seed of the generator of every sequence
    estimator: FlowEstimator  # of the estimated flow
    sources: Sources = PROCEDURAL  # textures, silhouettes and background videos

    def settings(self) -> dict[str, Any]:
        """As `Recipe`."""
        values = {
            "data_version": DATA_VERSION,
            "seed": self.seed,
            "splits": dict(self.config.splits),
            "sequences_per_shard": self.config.sequences_per_shard,
            "objects": self.config.objects,
            "backgrounds": self.config.backgrounds,
            "scene": dataclasses.asdict(self.config.scene),
            "sources": self.sources.settings(),
            "flow": self.estimator.settings(),
            "exact_flow": True,
            # Other versions render other pixels from the same seed.
            "opencv": cv2.__version__,
        }
        return json.loads(json.dumps(values))

    def examples(self, split: str, indices: range) -> Iterator[tuple[int, dict[str, Any]]]:
        """As `Recipe`."""
        for index in indices:
            sample = self.sample(split, index)
            name = f"{split}_{index:06d}"
            yield index, encode_sample(sample, self.config.kind(index), self.estimator, name)

    def sample(self, split: str, index: int) -> Sample:
        """Renders one sequence."""
        rng = np.random.default_rng([self.seed, SPLIT_IDS[split], index])
        kind = self.config.kind(index)
        return render_seen(rng, self.config.scene, kind, self.sources, self.estimator)


class OclrSyn(tfds.core.ShardBasedBuilder):
    """Builds `oclr_syn`; reading needs only `tfds.builder_from_directory`.

    Args (keyword only; the others are those of a TFDS builder):
      estimator: of the estimated flow, a callable on pairs of frames with a `settings()` that is
        stored with the data (`oclr_jax.flow`). It is needed to render, not to read.
      seed: first seed of the generator of every sequence.
      sources: textures, silhouettes and background videos.
      recipe: makes the examples instead of `Rendering`; they have the same features.
    """

    VERSION = tfds.core.Version(DATA_VERSION)
    BUILDER_CONFIGS = [
        OclrSynConfig(
            name="tiny",
            description="A few short, small sequences, for tests.",
            scene=SceneConfig(frames=6, height=32, width=48, render_height=64, render_width=96),
            splits={"train": 6, "validation": 3},
            sequences_per_shard=2,
        ),
        OclrSynConfig(
            name="tiny_pairs",
            description="As tiny, with flow at the rendering resolution, for optical flow.",
            scene=SceneConfig(frames=4, height=64, width=96, render_height=64, render_width=96),
            splits={"train": 6, "validation": 3},
            sequences_per_shard=2,
        ),
        OclrSynConfig(
            name="flow_pairs",
            description="Training data for optical flow: 4 frames, flow at the rendered size.",
            scene=SceneConfig(frames=4, height=256, width=448),
            splits={"train": 2000, "validation": 64},
        ),
        OclrSynConfig(
            name="syn_small",
            description="Training data of the weights in the package.",
            splits={"train": 528, "validation": 48},
        ),
        OclrSynConfig(
            name="syn_fast",
            description="Fast objects, most with motion blur: more training data of those weights.",
            scene=SceneConfig(
                min_speed=10.0,
                max_speed=40.0,
                followed=0.2,
                blurred=0.8,
                min_shutter=0.2,
                max_shutter=0.8,
            ),
            splits={"train": 160, "validation": 10},
            objects=(1, 2, 1, 3),
        ),
        OclrSynConfig(
            name="syn_train",
            description="Syn-Train of table B5: 4,608 sequences of 1, 2 and 3 objects.",
            splits={"train": 4608},
        ),
        OclrSynConfig(
            name="syn_val",
            description="Syn-Val of table B5: 384 sequences of 1, 2 and 3 objects.",
            splits={"validation": 384},
        ),
        OclrSynConfig(
            name="syn_single",
            description="Syn-Single of table B5: 256 sequences of one object.",
            splits={"validation": 256},
            objects=(1,),
        ),
        OclrSynConfig(
            name="single_homography",
            description="One object, backgrounds are images (table E6, A and B).",
            splits={"train": 1536},
            objects=(1,),
            backgrounds=("image",),
        ),
        OclrSynConfig(
            name="single_both",
            description="One object, backgrounds are images and videos (table E6, C).",
            splits={"train": 1536},
            objects=(1,),
        ),
    ]

    def __init__(
        self,
        *,
        estimator: FlowEstimator | None = None,
        seed: int = 0,
        sources: Sources = PROCEDURAL,
        recipe: Recipe | None = None,
        file_format: str = FILE_FORMAT,
        **kwargs: Any,
    ):
        self._recipe = recipe
        self._rendering = seed, estimator, sources
        super().__init__(file_format=file_format, **kwargs)

    @property
    def recipe(self) -> Recipe | None:
        """Makes the examples; None for a builder without an estimator, which can only read."""
        seed, estimator, sources = self._rendering
        if self._recipe is not None or estimator is None:
            return self._recipe
        return Rendering(self.builder_config, seed, estimator, sources)

    def _info(self) -> tfds.core.DatasetInfo:
        # Not `create_dataset_info`, which looks for files next to the code.
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=features(self.builder_config.scene),
            metadata=tfds.core.MetadataDict(self.recipe.settings() if self.recipe else {}),
        )

    def _example_writer(self) -> ExampleWriter:
        return RecordWriter()

    def download_and_prepare(self, **kwargs: Any) -> None:
        """As TFDS, including on a Beam cluster; adds the dataset card."""
        super().download_and_prepare(**kwargs)
        write_card(self.data_dir)

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager  # nothing is downloaded
        if self.recipe is None:
            raise UserError(
                "Rendering oclr_syn needs a flow estimator; use launch/generate.py, which has one."
            )
        config = self.builder_config
        return {
            split: [
                partial(self.recipe.examples, split, indices)
                for indices in shard_ranges(config, split)
            ]
            for split in config.splits
        }


def shard_ranges(config: OclrSynConfig, split: str) -> list[range]:
    """The indices of the sequences in each shard of a split."""
    count, size = config.splits[split], config.sequences_per_shard
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def render_seen(
    rng: np.random.Generator,
    config: SceneConfig,
    kind: SceneKind,
    sources: Sources = PROCEDURAL,
    footage_flow: FlowEstimator | None = None,
) -> Sample:
    """Renders a scene in which every object and the occluder is visible in some frame.

    Scenes are sampled until this holds: an object that is never visible cannot be found.

    Args:
      rng: the source of all randomness.
      config: sizes and ranges.
      kind: kind of scene.
      sources: textures, silhouettes and background videos.
      footage_flow: estimator of the flow of real background videos.

    Raises:
      UserError: `_ATTEMPTS` scenes in a row have a hidden object.
    """
    for _ in range(_ATTEMPTS):
        sample = render(compose_scene(rng, config, kind, sources), footage_flow=footage_flow)
        masks = [sample["segmentations"] == layer + 1 for layer in range(kind.objects)]
        if kind.occluder:
            masks.append(sample["occluder"] == 1)
        if min(mask.mean(axis=(1, 2)).max() for mask in masks) >= MIN_SEEN:
            return sample
    raise UserError(
        f"In {_ATTEMPTS} scenes in a row one of {kind.objects} objects is never visible; make the "
        "objects in the scene settings larger or slower."
    )
