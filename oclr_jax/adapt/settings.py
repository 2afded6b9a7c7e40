"""Settings of an adaptation."""

from dataclasses import dataclass

from oclr_jax.errors import UserError

STAGES = "corrector", "flow"  # what is trained, in this order
LABELS = "self", "appearance"  # refiners of the masks that the flow model is trained on


@dataclass(frozen=True)
class AdaptSettings:
    """What an adaptation depends on, apart from the footage, the weights and the flow estimator.

    The second paper (A.3) fine-tunes for a few hours per dataset at 2e-5 and drops the boundary
    term of the loss. The other values were chosen for minutes on a CPU; docs/adapt.md has the
    trials.

    Raises UserError for stages that cannot be.
    """

    stages: tuple[str, ...] = ("flow",)
    labels: str = "self"
    rounds: int = 1  # the paper: one round is enough
    # The flow model.
    steps: int = 320  # of training in each round
    check_every: int = 160  # after so many steps the weights are checked and saved
    frames: int = 8  # of a training clip
    real: int = 2  # clips of the footage in a batch, for each device
    rendered: int = 2  # rendered scenes beside them, so that what was learned stays
    scenes: int = 24  # rendered scenes in all
    learning_rate: float = 2e-4
    # Of the flow in training, drawn evenly; in use the model sees the first. DIS, the estimator
    # of the shipped weights, fails on the larger motion of longer gaps.
    gaps: tuple[int, ...] = (1, 1, 2)
    # The weights that are checked and kept are a mean: this much of the trained ones, the rest of
    # those before. It is steadier than either.
    trained_share: float = 0.25
    passes: int = 4  # of the flow model for the labels
    # The corrector.
    corrector_passes: int = 4  # over all videos
    corrector_steps: int = 50  # for each video in each pass
    corrector_learning_rate: float = 2e-5
    reconstruction: bool = True  # its loss terms of the feature reconstruction (table 15)
    seed: int = 0

    def __post_init__(self):
        if not self.stages or self.stages != tuple(s for s in STAGES if s in self.stages):
            raise UserError(f"The stages are {','.join(STAGES)}, one of them or both in order.")
        if self.labels not in LABELS:
            raise UserError(f"Labels come from one of the refiners {' and '.join(LABELS)}.")
        if "corrector" in self.stages and self.labels != "appearance":
            raise UserError("The stage corrector needs the refiner appearance; add it.")
