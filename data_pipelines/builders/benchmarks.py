"""The real benchmarks of both papers as TFDS datasets, their estimated flow included.

One class per benchmark. Each reads the sequences that `oclr_jax.datasets` finds in `manual_dir`,
the folder of the dataset as its authors distribute it, and follows the layout of the `davis`
builder.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.builders.examples import encode_flow
from data_pipelines.builders.records import FILE_FORMAT
from oclr_jax.datasets.benchmarks import BENCHMARKS, Benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence, find_benchmark_sequences
from oclr_jax.errors import UserError
from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.gaps import stream_gap_flows


@dataclasses.dataclass(eq=False)
class BenchmarkConfig(tfds.core.BuilderConfig):
    """The gap of the stored flow."""

    gap: int = 1  # distance of the frames of a pair


def _configs(benchmark: Benchmark) -> list[BenchmarkConfig]:
    return [
        BenchmarkConfig(name=f"gap{gap}", gap=gap, description=f"Estimated flow at gaps +-{gap}.")
        for gap in benchmark.gaps
    ]


def _instructions(benchmark: Benchmark) -> str:
    tree = "\n".join(f"  {line}" for line in benchmark.tree.splitlines())
    return (
        f"Download {benchmark.title} from {benchmark.source} and put it, unpacked or as zip files, "
        f"into the manual directory, which must then hold\n{tree}"
    )


class _BenchmarkBuilder(tfds.core.GeneratorBasedBuilder):
    """Builds one benchmark.

    `estimator`, a callable on pairs of frames with a `settings()` that is stored too
    (`oclr_jax.flow`), estimates the stored flow. It is needed to build, not to read.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        estimator: FlowEstimator | None = None,
        file_format: str = FILE_FORMAT,
        **kwargs: Any,
    ):
        self.estimator = estimator
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # Not `create_dataset_info`, which looks for files next to the code.
        benchmark = BENCHMARKS[self.name]
        flow = None
        if self.estimator is not None:
            flow = self.estimator.settings() | {"gap": self.builder_config.gap}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{benchmark.title}: video, annotations and estimated optical flow.",
            features=benchmark_features(),
            homepage=benchmark.source.split()[0],
            metadata=tfds.core.MetadataDict({"flow": flow}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        if self.estimator is None:
            raise UserError(
                f"Building {self.name} needs a flow estimator; use launch/build_benchmark.py, "
                "which has one."
            )
        benchmark, generators = BENCHMARKS[self.name], {}
        for split in benchmark.splits:
            try:
                sequences = find_benchmark_sequences(benchmark, dl_manager.manual_dir, split)
            except UserError:
                if split == "validation":
                    raise
                continue  # only the evaluated split is required
            generators[split] = self._generate_examples(sequences)
        return generators

    def _generate_examples(
        self, sequences: list[BenchmarkSequence]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for sequence in sequences:
            example = encode_sequence(sequence, self.estimator, self.builder_config.gap)
            yield sequence.name, example


class Davis2016(_BenchmarkBuilder):
    """DAVIS2016: 20 sequences at 480p, one foreground."""

    BUILDER_CONFIGS = _configs(BENCHMARKS["davis2016"])
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(BENCHMARKS["davis2016"])


class Davis2017Motion(_BenchmarkBuilder):
    """DAVIS2017-motion: DAVIS 2017 with jointly moving objects annotated as one."""

    BUILDER_CONFIGS = _configs(BENCHMARKS["davis2017_motion"])
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(BENCHMARKS["davis2017_motion"])


class SegtrackV2(_BenchmarkBuilder):
    """SegTrackv2: 14 sequences, the annotations of their objects joined."""

    BUILDER_CONFIGS = _configs(BENCHMARKS["segtrack_v2"])
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(BENCHMARKS["segtrack_v2"])


class Fbms59(_BenchmarkBuilder):
    """FBMS-59: 30 test sequences, sparsely annotated; flow at gap 1 or 3."""

    BUILDER_CONFIGS = _configs(BENCHMARKS["fbms59"])
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(BENCHMARKS["fbms59"])


class MocaFilter(_BenchmarkBuilder):
    """MoCA, filtered: 88 sequences of camouflaged animals with boxes."""

    BUILDER_CONFIGS = _configs(BENCHMARKS["moca_filter"])
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(BENCHMARKS["moca_filter"])


class Ytvos2018Motion(_BenchmarkBuilder):
    """YTVOS18-motion: 120 sequences, every fifth frame annotated; flow at gap 3."""

    BUILDER_CONFIGS = _configs(BENCHMARKS["ytvos2018_motion"])
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(BENCHMARKS["ytvos2018_motion"])


BUILDERS = {
    "davis2016": Davis2016,
    "davis2017_motion": Davis2017Motion,
    "segtrack_v2": SegtrackV2,
    "fbms59": Fbms59,
    "moca_filter": MocaFilter,
    "ytvos2018_motion": Ytvos2018Motion,
}


def benchmark_features() -> tfds.features.FeaturesDict:
    """The documented features of an example: T frames of H x W, A of them annotated."""

    def array(shape, dtype, doc):
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib", doc=doc)

    def flow(doc):
        return array(
            (None, None, None, 2),
            np.float16,
            f"{doc} at the configuration's gap [T h w 2]; (u, v) = (right, down) in pixels of this "
            "grid, which is the estimator's, rounded to 1/64 px; where the neighbour does not "
            "exist, the negated flow of the other direction",
        )

    return tfds.features.FeaturesDict(
        {
            "video": {
                "frames": tfds.features.Sequence(
                    tfds.features.Image(shape=(None, None, 3), doc="RGB, uint8, as distributed")
                ),
                "segmentations": array(
                    (None, None, None, 1),
                    np.uint8,
                    "masks of the annotated frames [A H W 1]: object id, 0 = background, 255 = "
                    "void; boxes filled for MoCA; one foreground, 1, where the papers group",
                ),
            },
            "metadata": {
                "num_frames": tfds.features.Scalar(np.int64, doc="number of frames T"),
                "video_name": tfds.features.Text(doc="name, unique in the dataset"),
                "folder": tfds.features.Text(doc="name of the sequence's folder as distributed"),
                "frame_names": tfds.features.Sequence(
                    tfds.features.Text(), doc="name of each frame's file, without suffix"
                ),
                "annotated_frames": tfds.features.Sequence(
                    np.int64, doc="numbers of the annotated frames, from 0"
                ),
                "boxes": tfds.features.Tensor(
                    shape=(None, 4),
                    dtype=np.float32,
                    doc="MoCA: (left, top, right, bottom) in pixels, for each annotated frame",
                ),
                "box_motion": tfds.features.Sequence(
                    np.int64, doc="MoCA: 0 locomotion, 1 deformation, 2 static"
                ),
            },
            "estimated_forward_flow": flow("flow to the frame `gap` later, estimated"),
            "estimated_backward_flow": flow("flow to the frame `gap` earlier, estimated"),
        }
    )


def encode_sequence(
    sequence: BenchmarkSequence, estimator: FlowEstimator, gap: int
) -> dict[str, Any]:
    """Encodes a sequence as an example of `benchmark_features`; estimates its flow.

    Raises:
      UserError: the sequence is too short for the gap.
    """
    fields = stream_gap_flows(sequence.frames(), (gap, -gap), estimator)
    flow = np.stack(list(fields))
    masks = [sequence.annotation(frame) for frame in sequence.annotated]
    boxes = [sequence.boxes[frame] for frame in sequence.annotated if sequence.boxes]
    return {
        "video": {
            "frames": [sequence.encoded(frame) for frame in range(len(sequence.stems))],
            "segmentations": np.stack(masks)[..., None],
        },
        "metadata": {
            "num_frames": len(sequence.stems),
            "video_name": sequence.name,
            "folder": sequence.folder,
            "frame_names": sequence.stems,
            "annotated_frames": sequence.annotated,
            "boxes": np.array([box.corners for box in boxes], np.float32).reshape(-1, 4),
            "box_motion": [box.motion for box in boxes],
        },
        "estimated_forward_flow": encode_flow(flow[..., :2]),
        "estimated_backward_flow": encode_flow(flow[..., 2:]),
    }
