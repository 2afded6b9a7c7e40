"""The kinds of scenes in a dataset: the cells of table B5, as a function of the sequence index."""

from dataclasses import dataclass

BACKGROUNDS = ("image", "video")
SHAPES = ("polygon", "silhouette")
# Sequences with one number of objects after which every cell of the table has its share.
ROUND = 16
# One of this many scenes has an artificial occluder; the paper does not say how many have.
OCCLUDED_EVERY = 4


@dataclass(frozen=True)
class SceneKind:
    """The kind of a scene: a row of table B5, and features that the table does not have.

    objects: number of objects, 1 to 3.
    background: "image", moved by a homography, or "video".
    motion: of the objects, "homography", or "spline" for a thin-plate spline in addition.
    shape: "polygon" or "silhouette".
    stationary: objects pause relative to the background for a while.
    occluder: there is an occluder in front of everything that moves with the background.
    """

    objects: int
    background: str = "image"
    motion: str = "spline"
    shape: str = "silhouette"
    stationary: bool = False
    occluder: bool = False


def scene_kind(
    index: int,
    objects: tuple[int, ...] = (1, 2, 3),
    backgrounds: tuple[str, ...] = BACKGROUNDS,
) -> SceneKind:
    """The kind of sequence `index` of a dataset with these numbers of objects and backgrounds.

    Any 16 consecutive sequences with one number of objects have the cells of table B5 in its
    proportions: backgrounds and shapes evenly, one homography to three splines. A third of all
    sequences have pauses, all with image backgrounds (supplement B.4). Features that are not in
    the table are spread evenly over its cells. Any first part of a dataset is nearly balanced.
    """
    number = objects[index % len(objects)]
    turn = index // len(objects)  # sequences with this number of objects before this one
    cell, rounds = turn % ROUND, turn // ROUND
    quarter = cell // 4
    background = backgrounds[cell % len(backgrounds)]
    # Two of three image backgrounds have pauses if half of all backgrounds are images, else one.
    images = turn // len(backgrounds)
    pauses = (images + number) % 3 < len(backgrounds)
    return SceneKind(
        objects=number,
        background=background,
        motion="homography" if quarter == cell % 4 else "spline",
        shape=SHAPES[cell // 2 % 2],
        stationary=background == "image" and pauses,
        occluder=(cell + quarter + rounds + number) % OCCLUDED_EVERY == 0,
    )
