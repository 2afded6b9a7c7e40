"""What each benchmark is: sequences, flow gap, how it is scored, what its folder must hold."""

import json
from dataclasses import dataclass
from pathlib import Path

# Rendered data, scored by modal and amodal masks: what `launch/generate.py` made, and the release.
SYNTHETIC = ("oclr_syn", "syn_val_released")

# Pixels of this value in an annotation with ids belong to nobody and do not count.
VOID = 255
# Frames of the published program's windows, and the most objects that it finds in one.
WINDOW = 30
WINDOW_OBJECTS = 3
# The most proposals that the official multi-object evaluator takes for a sequence.
MAX_PROPOSALS = 20

PROTOCOLS = {
    "paper": "windows of T frames, in each the layers that match the truth best, no stitching",
    "sequence-oracle": "objects followed over the sequence, those that match the truth best",
    "davis-unsupervised": "official multi-object rule: proposals matched once on mean J and F",
    "no-oracle": "the program says which objects are foreground, against all of the truth",
    "union": "objects followed over the sequence, all of them against all of the truth",
}

# Colour (RGB) of each object id, from 1, in annotations that are stored as colour pictures.
DAVIS2017_MOTION_COLOURS = (
    (128, 0, 0),
    (0, 128, 0),
    (128, 128, 0),
    (0, 0, 128),
    (128, 0, 128),
)
YTVOS2018_MOTION_COLOURS = (
    (236, 95, 103),
    (249, 145, 87),
    (250, 200, 99),
    (153, 199, 148),
    (98, 179, 178),
)

_SEQUENCES = json.loads((Path(__file__).parent / "sequences.json").read_text(encoding="utf-8"))
# The four sequences that steer choices: figures on them are never a test result.
DEVELOPMENT = frozenset({"blackswan", "car-shadow", "dance-twirl", "horsejump-high"})


@dataclass(frozen=True)
class Benchmark:
    """One dataset as the papers score it."""

    name: str  # of the TFDS builder and of `oclr evaluate --dataset`
    title: str  # as the papers call it
    tree: str  # what its folder must hold, one line per path
    source: str  # where it comes from
    gaps: tuple[int, ...] = (1,)  # of the optical flow, in frames; the first is the default
    protocols: tuple[str, ...] = ("paper", "no-oracle")  # the default
    single: bool = True  # all objects of a sequence are one foreground
    grouped: bool = False  # the published program puts all layers together before it scores them
    drop_ends: bool = False  # the first and the last frame of a sequence do not count
    boxes: bool = False  # scored by boxes: detection success rates

    def sequences(self, split: str = "validation") -> tuple[str, ...]:
        """Names of a split's sequences."""
        return tuple(_SEQUENCES[self.name][split])

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its splits."""
        return tuple(_SEQUENCES[self.name])


_ALL = (
    Benchmark(
        "davis2016",
        "DAVIS2016",
        "JPEGImages/480p/<sequence>/*.jpg\nAnnotations/480p/<sequence>/*.png",
        "https://davischallenge.org/davis2016/code.html",
        drop_ends=True,
    ),
    Benchmark(
        "davis2017_motion",
        "DAVIS2017-motion",
        "JPEGImages/480p/<sequence>/*.jpg (DAVIS 2017)\n"
        "Annotations_motion/480p/<sequence>/*.png (the curated annotations, so renamed)",
        "https://davischallenge.org/davis2017/code.html and the OCLR project page",
        protocols=("paper", "davis-unsupervised"),
        single=False,
    ),
    Benchmark(
        "segtrack_v2",
        "SegTrackv2",
        "JPEGImages/<sequence>/*.png\nGroundTruth/<sequence>/[<object>/]*.png",
        "https://web.engr.oregonstate.edu/~lif/SegTrack2/dataset.html",
        grouped=True,
    ),
    Benchmark(
        "fbms59",
        "FBMS-59",
        "Testset/<sequence>/*.jpg\nTestset/<sequence>/GroundTruth/*.pgm or *.ppm",
        "https://lmb.informatik.uni-freiburg.de/resources/datasets/moseg.en.html",
        gaps=(1, 3),
        grouped=True,
    ),
    Benchmark(
        "moca_filter",
        "MoCA",
        "JPEGImages/<sequence>/*.jpg\nannotations.csv",
        "https://www.robots.ox.ac.uk/~vgg/data/MoCA and the Motion Grouping project page "
        "(the filtered and cropped frames)",
        boxes=True,
    ),
    Benchmark(
        "ytvos2018_motion",
        "YTVOS18-motion",
        "JPEGImages/<sequence>/*.jpg (train_all_frames of YouTube-VOS 2018)\n"
        "Annotations_motion/<sequence>/*.png (the curated annotations, so renamed)",
        "https://youtube-vos.org/dataset and the appear-refine project page",
        gaps=(3,),
        protocols=("paper", "davis-unsupervised"),
        single=False,
    ),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}
