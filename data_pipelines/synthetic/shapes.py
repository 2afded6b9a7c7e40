"""Object shapes: polygons, blobs, given silhouettes and articulated figures."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

# Sub-pixel bits of OpenCV's polygon drawing.
_SHIFT = 4


@dataclass(frozen=True)
class Limb:
    """A rigid part of a figure, on the object's square canvas.

    alpha: coverage, 0 to 255.
    parent: index of the limb it is attached to, -1 for the trunk; parents come first.
    pivot: joint with the parent, in canvas pixels (x, y).
    swing: amplitude of the joint's rotation, radians.
    phase: of the joint's rotation, radians.
    """

    alpha: UInt8[np.ndarray, "s s"]
    parent: int
    pivot: Float64[np.ndarray, "2"]
    swing: float
    phase: float


@dataclass(frozen=True)
class Shape:
    """An object's shape: limbs back to front, and control points of its thin-plate spline."""

    limbs: tuple[Limb, ...]
    control: Float64[np.ndarray, "n 2"]


def polygon(rng: np.random.Generator, size: int) -> Shape:
    """Samples a polygon of 3 to 8 vertices, convex or not, with a minimum vertex distance.

    The vertices are the control points. `size` is the side of the canvas in pixels; a quarter of it
    is margin for the deformation.

    Source: OCLR section 3 and supplement B.2.
    """
    count = int(rng.integers(3, 9))
    minimum = 0.9 / count
    while True:
        # Sorted angles give a simple polygon; random radii make it convex or not.
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        radius = rng.uniform(0.35, 1.0, count)
        points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        gaps = np.diff(np.append(angle, angle[0] + 2 * np.pi))
        distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
        distance[np.diag_indices(count)] = np.inf
        if distance.min() > minimum and gaps.max() < 0.95 * np.pi and _area(points) > 0.35:
            break
    vertices = size / 2 + points * size * 0.375
    alpha = np.zeros((size, size), np.uint8)
    _fill(alpha, vertices)
    return Shape((_trunk(alpha),), vertices)


def blob(rng: np.random.Generator, size: int) -> Shape:
    """Samples a smooth silhouette without joints; control points on a uniform grid (section 3)."""
    outline = _blob_outline(rng, elongation=rng.uniform(0.45, 1.0), roughness=rng.uniform(0.1, 0.4))
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    alpha = np.zeros((size, size), np.uint8)
    _fill(alpha, size / 2 + outline @ rotation.T * size * 0.375)
    if rng.random() < 0.3:
        _cut_hole(rng, alpha)
    return Shape((_trunk(alpha),), _control_grid(size))


def bar(rng: np.random.Generator, size: int) -> Shape:
    """Samples a bar, such as a post or rail: long, thin, nearly vertical or nearly horizontal."""
    angle = rng.normal(0, 0.12) + (np.pi / 2 if rng.random() < 0.7 else 0)
    reach = 0.45 * np.array([np.cos(angle), np.sin(angle)])
    width = rng.uniform(0.03, 0.12)
    alpha = np.zeros((size, size), np.uint8)
    _fill(alpha, size * (0.5 + _capsule(-reach, reach, width, width * rng.uniform(0.5, 1))))
    return Shape((_trunk(alpha),), _control_grid(size))


def from_mask(rng: np.random.Generator, mask: Bool[np.ndarray, "h w"], size: int) -> Shape:
    """A given silhouette, rotated by a random angle and fitted into the canvas (supplement B.2).

    `mask` is not empty. Control points are a uniform grid (section 3).
    """
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    part = mask[top : top + height, left : left + width].astype(np.uint8) * 255
    angle = rng.uniform(0, 2 * np.pi)
    reach = np.abs([[np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = 0.75 * size / (reach @ [width, height]).max()
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = size / 2 - turn @ [(width - 1) / 2, (height - 1) / 2]
    matrix = np.concatenate([turn, shift[:, None]], 1)
    if scale < 1:  # warping does not average, so smooth before shrinking
        part = cv2.GaussianBlur(part, (0, 0), 0.5 / scale, borderType=cv2.BORDER_CONSTANT)
    alpha = cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return Shape((_trunk(alpha),), _control_grid(size))


def figure(rng: np.random.Generator, size: int) -> Shape:
    """Samples an articulated figure: a trunk with limbs, neck, head and tail.

    It is one object and one layer. It has four legs, two legs, or limbs at random.
    """
    plan = _PLANS[int(rng.integers(len(_PLANS)))](rng)
    scale = size * 0.42 / plan.reach()
    pieces: list[Limb] = []
    for bone in plan.bones:
        alpha = np.zeros((size, size), np.uint8)
        _fill(alpha, size / 2 + bone.outline * scale)
        if not pieces and rng.random() < 0.15:
            _cut_hole(rng, alpha)
        pivot = size / 2 + bone.pivot * scale
        pieces.append(Limb(alpha, bone.parent, pivot, bone.swing, bone.phase))
    return Shape(tuple(pieces), _control_grid(size))


def crop(
    alpha: UInt8[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"]
) -> tuple[UInt8[np.ndarray, "a b 4"], Float64[np.ndarray, "2"]]:
    """The sprite of the covered rectangle with a transparent rim, and its corner (x, y)."""
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    top, left = max(rows[0] - 2, 0), max(columns[0] - 2, 0)
    bottom, right = rows[-1] + 3, columns[-1] + 3
    sprite = np.concatenate([image, alpha[..., None]], -1)[top:bottom, left:right].copy()
    rim = sprite[..., 3]
    rim[0], rim[-1], rim[:, 0], rim[:, -1] = 0, 0, 0, 0
    return sprite, np.array([left, top], float)


@dataclass
class _Bone:
    outline: np.ndarray
    parent: int
    pivot: np.ndarray
    swing: float
    phase: float


class _Plan:
    """The bones of a figure in units of the trunk's half length, painted in this order."""

    def __init__(self, rng: np.random.Generator, trunk: np.ndarray):
        self.rng = rng
        self.bones = [_Bone(trunk, -1, np.zeros(2), 0.0, 0.0)]

    def reach(self) -> float:
        return max(float(np.abs(bone.outline).max()) for bone in self.bones)

    def limb(self, start, angle: float, lengths, widths, swing: float, phase: float) -> None:
        """Adds a chain of tapered segments from `start`; each joint swings with a delay."""
        parent, start = 0, np.asarray(start, float)
        for index, length in enumerate(lengths):
            end = start + length * np.array([np.cos(angle), np.sin(angle)])
            outline = _capsule(start, end, widths[index], widths[index + 1])
            amount = swing * self.rng.uniform(0.6, 1.2)
            self.bones.append(_Bone(outline, parent, start, amount, phase - 0.9 * index))
            parent, start = len(self.bones) - 1, end
            angle += self.rng.normal(0, 0.25)

    def head(self, start, angle: float, length: float, width: float, size: float) -> None:
        """Adds a neck with a head at its end."""
        rng = self.rng
        phase, swing = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.45)
        self.limb(start, angle, [length], [width, width * 0.8], swing, phase)
        neck = len(self.bones) - 1
        end = np.asarray(start) + length * np.array([np.cos(angle), np.sin(angle)])
        outline = end + _blob_outline(rng, rng.uniform(0.5, 0.9), 0.1) * size
        self.bones.append(_Bone(outline, neck, end, swing * 0.7, phase - 0.5))


def _four_legged(rng: np.random.Generator) -> _Plan:
    plan = _Plan(rng, _blob_outline(rng, rng.uniform(0.35, 0.6), 0.12))
    swing, thick = rng.uniform(0.2, 0.95), rng.uniform(0.1, 0.2)
    length = rng.uniform(0.4, 0.9)
    beat = rng.uniform(0, 2 * np.pi)
    for side, x in enumerate((-0.72, -0.55, 0.55, 0.72)):
        phase = beat + np.pi * side + rng.normal(0, 0.4)
        widths = [thick, thick * 0.7, thick * 0.45]
        plan.limb((x, 0.15), np.pi / 2, [length * 0.6, length * 0.6], widths, swing, phase)
    neck = rng.uniform(0.3, 0.8)
    plan.head((0.8, -0.1), rng.uniform(-1.2, -0.1), neck, thick * 1.4, rng.uniform(0.2, 0.4))
    if rng.random() < 0.7:
        plan.limb((-0.95, -0.1), rng.uniform(2.4, 4.2), [0.3, 0.3], [0.09, 0.06, 0.03], 0.5, beat)
    return plan


def _two_legged(rng: np.random.Generator) -> _Plan:
    trunk = _blob_outline(rng, rng.uniform(0.4, 0.65), 0.08)[:, ::-1]
    plan = _Plan(rng, np.ascontiguousarray(trunk))
    swing, thick = rng.uniform(0.2, 1.0), rng.uniform(0.16, 0.3)
    leg, arm = rng.uniform(0.7, 1.1), rng.uniform(0.5, 0.85)
    beat = rng.uniform(0, 2 * np.pi)
    for side in (-1, 1):
        phase = beat + np.pi * side / 2
        widths = [thick, thick * 0.8, thick * 0.6]
        plan.limb((0.2 * side, 0.75), np.pi / 2, [leg * 0.7, leg * 0.7], widths, swing, phase)
        widths = [thick * 0.7, thick * 0.6, thick * 0.4]
        hang = np.pi / 2 - side * rng.uniform(-0.2, 1.4)
        plan.limb((0.38 * side, -0.7), hang, [arm * 0.6, arm * 0.6], widths, swing * 1.2, -phase)
    plan.head((0.0, -0.85), -np.pi / 2 + rng.normal(0, 0.2), 0.25, thick, rng.uniform(0.25, 0.4))
    return plan


def _free(rng: np.random.Generator) -> _Plan:
    plan = _Plan(rng, _blob_outline(rng, rng.uniform(0.4, 1.0), rng.uniform(0.1, 0.3)))
    for _ in range(int(rng.integers(1, 6))):
        angle, thick = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 0.35)
        lengths = list(rng.uniform(0.3, 0.8, int(rng.integers(1, 4))))
        widths = list(thick * np.linspace(1, 0.4, len(lengths) + 1))
        start = 0.4 * np.array([np.cos(angle), np.sin(angle)])
        plan.limb(start, angle, lengths, widths, rng.uniform(0.15, 0.8), rng.uniform(0, 2 * np.pi))
    return plan


_PLANS = (_four_legged, _two_legged, _free)


def _blob_outline(rng: np.random.Generator, elongation: float, roughness: float) -> np.ndarray:
    """A closed outline of half length 1 along x: an ellipse with low-frequency noise."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    order = np.arange(2, 8)
    amplitude = roughness * rng.normal(0, 1, 6) / order
    phase = rng.uniform(0, 2 * np.pi, 6)
    radius = 1 + (amplitude * np.cos(order * angle[:, None] + phase)).sum(1)
    radius = np.clip(radius, 0.3, 1.8)
    outline = np.stack([radius * np.cos(angle), elongation * radius * np.sin(angle)], 1)
    return outline / np.abs(outline[:, 0]).max()


def _capsule(start: np.ndarray, end: np.ndarray, width0: float, width1: float) -> np.ndarray:
    """The outline of a segment with round ends of radius width0 and width1."""
    along = np.arctan2(end[1] - start[1], end[0] - start[0])
    turn = np.linspace(np.pi / 2, 3 * np.pi / 2, 12)
    back = start + width0 * np.stack([np.cos(along + turn), np.sin(along + turn)], 1)
    front = end + width1 * np.stack([np.cos(along + turn - np.pi), np.sin(along + turn - np.pi)], 1)
    return np.concatenate([back, front])


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def _control_grid(size: int) -> np.ndarray:
    """A uniform 4 x 4 grid over the object."""
    axis = np.linspace(0.15, 0.85, 4) * size
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def _fill(alpha: np.ndarray, outline: np.ndarray) -> None:
    fixed = np.round(outline * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(alpha, [fixed], 255, cv2.LINE_AA, _SHIFT)


def _cut_hole(rng: np.random.Generator, alpha: np.ndarray) -> None:
    """Cuts a hole near the middle of a shape."""
    rows, columns = np.nonzero(alpha)
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])
    center = low + rng.uniform(0.35, 0.65, 2) * (high - low)
    axes = rng.uniform(0.08, 0.2, 2) * (high - low)
    center, axes = (tuple(np.round(x * (1 << _SHIFT)).astype(int).tolist()) for x in (center, axes))
    cv2.ellipse(alpha, center, axes, rng.uniform(0, 180), 0, 360, 0, -1, cv2.LINE_AA, _SHIFT)


def _trunk(alpha: np.ndarray) -> Limb:
    return Limb(alpha, -1, np.zeros(2), 0.0, 0.0)
