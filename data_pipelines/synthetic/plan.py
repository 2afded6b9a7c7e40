"""Which scenes a dataset has: the cells of table B5, as a function of a sequence's number."""

from dataclasses import dataclass

BACKGROUNDS = ("image", "video")
SHAPES = ("polygon", "silhouette")
# Sequences after which every cell of the table has had its share, for each number of objects.
ROUND = 16
# One scene in so many has an artificial occluder; the paper gives no share.
OCCLUDED_EVERY = 4


@dataclass(frozen=True)
class SceneKind:
    """What sort of scene it is: a row of table B5, and what it may have besides.

    objects: how many, 1 to 3.
    background: "image", moved by a homography, or "video".
    motion: of the objects: "homography", or "spline" for a thin-plate spline besides.
    shape: "polygon" or "silhouette".
    stationary: objects stand still against the background for a while.
    occluder: something in front of everything moves with the background.
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

    Any 16 sequences in a row with one number of objects hold every cell of table B5 in the table's
    proportions: backgrounds and shapes evenly, one homography for three splines. A third of all
    sequences has stationary spells, all of them with image backgrounds (supplement B.4). What is
    not in the table is spread evenly over its cells. Any beginning of a dataset is nearly
    balanced.
    """
    number = objects[index % len(objects)]
    turn = index // len(objects)  # sequences with this number of objects before this one
    cell, rounds = turn % ROUND, turn // ROUND
    quarter = cell // 4
    background = backgrounds[cell % len(backgrounds)]
    # Of three image backgrounds, two have spells if half of all backgrounds are images, else one.
    images = turn // len(backgrounds)
    spells = (images + number) % 3 < len(backgrounds)
    return SceneKind(
        objects=number,
        background=background,
        motion="homography" if quarter == cell % 4 else "spline",
        shape=SHAPES[cell // 2 % 2],
        stationary=background == "image" and spells,
        occluder=(cell + quarter + rounds + number) % OCCLUDED_EVERY == 0,
    )
