"""The TFDS dataset `oclr_syn`: layered synthetic video with exact and estimated flow.

The layout follows the `davis` builder (`video/frames`, `video/segmentations`, `metadata`). Every
sequence is a function of (seed, split, index) alone, so it does not matter which process renders
it, nor how many sequences are rendered beside it.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.builders.card import write_card
from data_pipelines.builders.examples import encode_sample, features
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

FILE_FORMAT = "array_record"  # TFDS's own default would need TensorFlow

# The second seed of a split's generator. A number once given to a split stays with it.
SPLIT_IDS = {"train": 0, "validation": 1, "online": 2}

MIN_SEEN = 0.001  # share of the frame that each object shows in its best frame, at least
_ATTEMPTS = 20  # scenes drawn for one sequence; about one in forty hides an object

_DESCRIPTION = """
Synthetic video of one to three moving, overlapping, deforming objects over a moving background,
with exact and estimated optical flow, modal and amodal masks, depth order and visibility.
"""


@dataclasses.dataclass(eq=False)
class OclrSynConfig(tfds.core.BuilderConfig):
    """What to render and how much of it."""

    scene: SceneConfig = dataclasses.field(default_factory=SceneConfig)  # sizes, lengths, ranges
    splits: Mapping[str, int] = dataclasses.field(default_factory=dict)  # sequences per split
    objects: tuple[int, ...] = (1, 2, 3)  # numbers of objects, by turns
    backgrounds: tuple[str, ...] = BACKGROUNDS  # "image", "video" or both
    sequences_per_shard: int = 16  # sequences in a file; an interrupted build redoes at most one

    def kind(self, index: int) -> SceneKind:
        """The kind of scene that sequence `index` of any split shows."""
        return scene_kind(index, self.objects, self.backgrounds)


@runtime_checkable
class Recipe(Protocol):
    """What makes the examples of a dataset; it is sent to the processes that do so."""

    def settings(self) -> dict[str, Any]:
        """Everything that the dataset's bytes depend on, as JSON; stored as its metadata."""

    def examples(self, split: str, indices: range) -> Iterator[tuple[int, dict[str, Any]]]:
        """Sequences of a split: (index, example of `features`)."""


@dataclasses.dataclass(frozen=True)
class Rendering:
    """The recipe of synthetic sequences, each a function of (seed, split, index) alone."""

    config: OclrSynConfig  # what to render
    seed: int  # first seed of every sequence's generator
    estimator: FlowEstimator  # gives the estimated flow
    sources: Sources = PROCEDURAL  # what scenes are made of

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
        }
        return json.loads(json.dumps(values))

    def examples(self, split: str, indices: range) -> Iterator[tuple[int, dict[str, Any]]]:
        """As `Recipe`."""
        for index in indices:
            sample = self.sample(split, index)
            name = f"{split}_{index:06d}"
            yield index, encode_sample(sample, self.config.kind(index), self.estimator, name)

    def sample(self, split: str, index: int) -> Sample:
        """One sequence as it is rendered."""
        rng = np.random.default_rng([self.seed, SPLIT_IDS[split], index])
        kind = self.config.kind(index)
        return render_seen(rng, self.config.scene, kind, self.sources, self.estimator)


class OclrSyn(tfds.core.ShardBasedBuilder):
    """Builds `oclr_syn`; reading needs only `tfds.builder_from_directory`.

    `estimator` gives the estimated flow: a callable on pairs of frames with a `settings()` that is
    stored with the data (`oclr_jax.flow`). It is needed to render, not to read. `seed` is the first
    seed of every sequence's generator, `sources` what scenes are made of. Another `recipe` makes
    other examples of the same form.
    """

    VERSION = tfds.core.Version(DATA_VERSION)
    BUILDER_CONFIGS = [
        OclrSynConfig(
            name="tiny",
            description="A few short, small sequences: for tests and first steps.",
            scene=SceneConfig(frames=6, height=32, width=48, render_height=64, render_width=96),
            splits={"train": 6, "validation": 3},
            sequences_per_shard=2,
        ),
        OclrSynConfig(
            name="tiny_pairs",
            description="As tiny, with flow at the rendering resolution: for optical flow.",
            scene=SceneConfig(frames=4, height=64, width=96, render_height=64, render_width=96),
            splits={"train": 6, "validation": 3},
            sequences_per_shard=2,
        ),
        OclrSynConfig(
            name="flow_pairs",
            description="To train optical flow on: 4 frames, flow at the rendering resolution.",
            scene=SceneConfig(frames=4, height=256, width=448),
            splits={"train": 2000, "validation": 64},
        ),
        OclrSynConfig(
            name="syn_small",
            description="What the weights in the package were trained on.",
            splits={"train": 528, "validation": 48},
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
            description="Of one object before images that a homography moves (table E6, A and B).",
            splits={"train": 1536},
            objects=(1,),
            backgrounds=("image",),
        ),
        OclrSynConfig(
            name="single_both",
            description="Of one object before images and videos (table E6, C).",
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
        self._ingredients = seed, estimator, sources
        self._given_recipe = recipe
        super().__init__(file_format=file_format, **kwargs)

    @property
    def recipe(self) -> Recipe | None:
        """What makes the examples; None where there is no estimator and nothing can be made."""
        seed, estimator, sources = self._ingredients
        if self._given_recipe is not None or estimator is None:
            return self._given_recipe
        return Rendering(self.builder_config, seed, estimator, sources)

    def _info(self) -> tfds.core.DatasetInfo:
        # Built by hand, because `create_dataset_info` looks for files beside the code.
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=features(self.builder_config.scene),
            metadata=tfds.core.MetadataDict(self.recipe.settings() if self.recipe else {}),
        )

    def _example_writer(self) -> ExampleWriter:
        return RecordWriter()

    def download_and_prepare(self, **kwargs: Any) -> None:
        """TFDS's own preparation, on a Beam cluster too; the dataset's card is added to it."""
        super().download_and_prepare(**kwargs)
        write_card(self.data_dir)

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager  # nothing is downloaded
        if self.recipe is None:
            raise UserError(
                "Rendering oclr_syn needs a flow estimator; run launch/generate.py, which gives it."
            )
        config = self.builder_config
        return {
            split: [
                partial(self.recipe.examples, split, indices)
                for indices in shard_ranges(config, split)
            ]
            for split in config.splits
        }


class RecordWriter(ExampleWriter):
    """Writes a file of records whose bytes depend on the examples alone."""

    def __init__(self):
        super().__init__(file_adapters.FileFormat(FILE_FORMAT))

    def write(self, path: os.PathLike, examples: Iterable[tuple[int, bytes]]) -> None:
        """Writes serialized examples of TFDS, given as (key, record), to `path`.

        Raises OSError where they cannot be written, as on a full disk.
        """
        try:
            super().write(path, ((key, _in_field_order(record)) for key, record in examples))
        except RuntimeError as error:  # what array_record makes of an error of the file system
            raise OSError(str(error)) from error


def _in_field_order(record: bytes) -> bytes:
    # TFDS leaves the order of the fields to a hash that differs from process to process.
    return tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)


def shard_ranges(config: OclrSynConfig, split: str) -> list[range]:
    """The indices of the sequences in each file of a split."""
    count, size = config.splits[split], config.sequences_per_shard
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def render_seen(
    rng: np.random.Generator,
    config: SceneConfig,
    kind: SceneKind,
    sources: Sources = PROCEDURAL,
    footage_flow: FlowEstimator | None = None,
) -> Sample:
    """Renders a scene, drawn again until each object and the occluder is seen in some frame.

    An object that is hidden or outside all the time could not be found by anyone.
    """
    for _ in range(_ATTEMPTS):
        sample = render(compose_scene(rng, config, kind, sources), footage_flow=footage_flow)
        masks = [sample["segmentations"] == layer + 1 for layer in range(kind.objects)]
        if kind.occluder:
            masks.append(sample["occluder"] == 1)
        if min(mask.mean(axis=(1, 2)).max() for mask in masks) >= MIN_SEEN:
            return sample
    raise UserError(
        f"{_ATTEMPTS} scenes in a row with {kind.objects} objects hide one of them all the time; "
        "make the objects in the scene settings larger or slower."
    )
