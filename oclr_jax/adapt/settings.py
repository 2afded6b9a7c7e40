"""Settings of an adaptation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptSettings:
    """What an adaptation depends on, apart from the footage, the weights and the flow estimator.

    The second paper (A.3) fine-tunes for a few hours per dataset at 2e-5 and drops the boundary
    term of the loss. The other values were chosen for minutes on a CPU.
    """

    rounds: int = 1  # the paper: one round is enough
    steps: int = 160  # of training in each round
    stage_steps: int = 40  # after so many steps the weights are checked and saved
    frames: int = 8  # of a training clip
    real: int = 2  # clips of the footage in a batch
    rendered: int = 1  # rendered scenes in a batch, so that what was learned stays
    scenes: int = 48  # rendered scenes in all
    learning_rate: float = 5e-5
    gaps: tuple[int, ...] = (1, 2, 3)  # of the flow in training; in use the model sees its own
    passes: int = 4  # of the flow model for the labels
    seed: int = 0
