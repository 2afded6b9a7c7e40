"""Masks painted over frames."""

import cv2
import numpy as np
from jaxtyping import UInt8

from oclr_jax.video.palette import DAVIS_PALETTE

# The palette is dark. Brightened by half, its colours show on any frame and stay distinct.
BRIGHT_PALETTE = np.minimum(DAVIS_PALETTE * 1.5, 255).astype(np.uint8)
_OPACITY = 0.45
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def paint_ids(
    frame: UInt8[np.ndarray, "h w 3"], ids: UInt8[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a copy of an RGB frame with each object tinted, outlined and labelled with its id.

    `ids` are object ids, 0 = background, as in the PNG masks.
    """
    painted = frame.copy()
    present = np.flatnonzero(np.bincount(ids.ravel()))
    masks = {int(number): cv2.compare(ids, int(number), cv2.CMP_EQ) for number in present if number}
    for number, mask in masks.items():
        paint_mask(painted, mask, number)
    for number, mask in masks.items():
        paint_label(painted, mask, number, str(number))
    return painted


def paint_mask(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], number: int
) -> None:
    """Tints and outlines a mask (non-zero = inside) in the colour of id `number`, in place."""
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return
    # Only the bounding box is processed; `part` is a view.
    part = image[top : top + height, left : left + width]
    inside = mask[top : top + height, left : left + width]
    colour = BRIGHT_PALETTE[number].tolist()
    flat = np.full_like(part, colour)
    cv2.copyTo(cv2.addWeighted(part, 1 - _OPACITY, flat, _OPACITY, 0), inside, part)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(image, contours, -1, colour, _line(image), cv2.LINE_AA, offset=(left, top))


def paint_label(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], number: int, text: str
) -> None:
    """Writes text on a patch in the colour of id `number`, in the middle of its mask, in place."""
    if not mask.any():
        return
    x, y = _middle(mask)
    colour = BRIGHT_PALETTE[number].tolist()
    # Black on light colours, white on dark ones, by luma.
    ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
    scale, line = max(0.35, min(image.shape[:2]) / 800), _line(image)
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, line)
    pad = 2 * line
    x = int(np.clip(x - width // 2, pad, max(pad, image.shape[1] - width - pad)))
    y = int(np.clip(y + height // 2, height + pad, max(height + pad, image.shape[0] - pad)))
    corners = (x - pad, y - height - pad), (x + width + pad, y + pad)
    cv2.rectangle(image, *corners, colour, cv2.FILLED)
    cv2.putText(image, text, (x, y), _FONT, scale, ink, line, cv2.LINE_AA)


def _middle(mask: UInt8[np.ndarray, "h w"]) -> tuple[int, int]:
    """(x, y) of the centroid, which moves smoothly, or the thickest point if it lies outside."""
    moments = cv2.moments(mask, binaryImage=True)
    x, y = round(moments["m10"] / moments["m00"]), round(moments["m01"] / moments["m00"])
    if mask[y, x]:
        return x, y
    left, top, width, height = cv2.boundingRect(mask)
    step = max(1, min(width, height) // 32)  # a coarse position is enough
    inside = np.pad(mask[top : top + height : step, left : left + width : step], 1)
    _, _, _, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(inside, cv2.DIST_L2, 3))
    return left + (x - 1) * step, top + (y - 1) * step


def _line(image: UInt8[np.ndarray, "h w 3"]) -> int:
    return max(1, round(min(image.shape[:2]) / 240))
