"""Settings of test-time adaptation. The defaults are those of the published program."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TTAConfig:
    """How masks are propagated, and how the image features are adapted to a video.

    The ablations of table E9: J is the flow model without this refiner; K has neither `fuse_flow`
    nor fine-tuning; L has `fuse_flow`; M, the default, has both.
    """

    weights: str = "dino_deitsmall8_pretrain"  # image features, a name or file of weights
    short_side: int = 480  # of the frames that the features are computed on, pixels
    long_multiple: int = 64  # the long side is rounded down to a multiple of this
    radius: int = 12  # half side of the neighbourhood in which cells are compared, in cells
    top: int = 5  # cells that a cell takes its labels from
    temperature: float = 0.1  # of their weights
    previous: int = 7  # frames that labels are taken from, besides the first one
    check_previous: int = 3  # the same in the consistency check
    fuse_flow: bool = True  # average with the flow model's mask in consistent frames (Dyn. Ref.)
    steps: int = 1000  # of fine-tuning; 0 for none
    blocks: int = 2  # last blocks of the transformer, which are fine-tuned
    learning_rate: float = 1e-5
    warmup_steps: int = 100
    max_distance: int = 5  # frames between the two frames of a pair in fine-tuning
    seed: int = 0


# By the name of the refiner.
VARIANTS = {
    "tta": TTAConfig(),
    "tta-frozen": TTAConfig(steps=0),
    "tta-propagate": TTAConfig(steps=0, fuse_flow=False),
}
