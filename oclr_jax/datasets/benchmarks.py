"""Descriptions of the benchmarks: sequences, flow gap, scoring rules, folder layout."""

import json
from dataclasses import dataclass
from pathlib import Path

# Synthetic datasets, scored by modal and amodal masks: our own, and the released Syn-Val.
SYNTHETIC = ("oclr_syn", "syn_val_released")

# Value of void pixels in id annotations. They do not count.
VOID = 255
# Frames per window in the published program, and its maximum number of objects per window.
WINDOW = 30
WINDOW_OBJECTS = 3
# Maximum number of proposals per sequence in the official multi-object evaluator.
MAX_PROPOSALS = 20

PROTOCOLS = {
    "paper": "per window of T frames, the layers that best match the ground truth; no tracking",
    "sequence-oracle": "per sequence, the tracks that best match the ground truth",
    "davis-unsupervised": "official multi-object rule: proposals matched once on mean J and F",
    "no-oracle": "foreground chosen without ground truth, against all of the ground truth",
    "union": "all tracks together, against all of the ground truth",
    "motion-grouping": "per flow, the slot that best matches the ground truth; mean of the masks "
    "of all flow gaps; mean over all frames",
    "motion-grouping-single": "the same with the first flow gap alone",
}

# RGB colour of the ids 1, 2, ... in annotations stored as colour images.
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
# The four development sequences. Figures on them are not test results.
DEVELOPMENT = frozenset({"blackswan", "car-shadow", "dance-twirl", "horsejump-high"})


@dataclass(frozen=True)
class Benchmark:
    """A benchmark and how the papers score it."""

    name: str  # name of the TFDS builder and in `oclr evaluate --dataset`
    title: str  # name in the papers
    tree: str  # expected files, one path pattern per line
    source: str  # where to get it
    gaps: tuple[int, ...] = (1,)  # gaps of the optical flow in frames, default first
    protocols: tuple[str, ...] = ("paper", "no-oracle")  # default protocols
    single: bool = True  # all objects of a sequence form one foreground
    grouped: bool = False  # under `paper`, all layers together are scored
    drop_ends: bool = False  # the first and the last frame of a sequence do not count
    boxes: bool = False  # ground truth is boxes; scored by success rates

    def sequences(self, split: str = "validation") -> tuple[str, ...]:
        """Names of the sequences of a split."""
        return tuple(_SEQUENCES[self.name][split])

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
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
