"""One picture of a result: chosen frames with their flow, modal masks and amodal masks."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from oclr_jax.show.flow_color import flow_to_rgb
from oclr_jax.show.overlay import paint_ids, paint_label, paint_mask
from oclr_jax.video.resize import resize_image

_GAP = 6  # white pixels between the tiles
_MARGIN = 92  # pixels at the left, for the names of the rows
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_ROWS = ("frame", "flow", "modal", "amodal")


def contact_sheet(
    frames: UInt8[np.ndarray, "n h w 3"],
    flow: Float32[np.ndarray, "n fh fw 2"],
    modal: UInt8[np.ndarray, "n mh mw"],
    amodal: Bool[np.ndarray, "n ah aw k"],
    ids: Sequence[int],
    depth_ranks: Sequence[int],
    stems: Sequence[str],
    tile_height: int = 160,
) -> UInt8[np.ndarray, "H W 3"]:
    """Lays out one column per frame: the frame, its flow, modal masks, amodal masks with order.

    `frames` are RGB, `flow` is one gap's in pixels of its grid (painted on one scale for all
    columns), `modal` are object ids, `amodal[..., j]` is the mask of object `ids[j]`, whose place
    in depth is `depth_ranks[j]` (0 = front). Amodal masks are painted back to front and labelled
    `id: rank`. Each input may have its own resolution.
    """
    height, width = tile_height, round(tile_height * frames.shape[2] / frames.shape[1])
    lengths = np.linalg.norm(flow, axis=-1)
    longest = max(1.0, float(np.percentile(lengths, 99)))
    columns = []
    for index in range(len(frames)):
        frame = resize_image(frames[index], height, width)
        tiles = [
            frame,
            resize_image(flow_to_rgb(flow[index], longest), height, width),
            paint_ids(frame, _nearest(modal[index], height, width)),
            _paint_amodal(frame, amodal[index], ids, depth_ranks),
        ]
        columns.append(tiles)
    return _grid(columns, stems)


def _paint_amodal(
    frame: UInt8[np.ndarray, "h w 3"],
    amodal: Bool[np.ndarray, "ah aw k"],
    ids: Sequence[int],
    depth_ranks: Sequence[int],
) -> UInt8[np.ndarray, "h w 3"]:
    height, width = frame.shape[:2]
    # Pale, so that what is painted on it and its overlaps stand out.
    image = cv2.addWeighted(frame, 0.4, np.full_like(frame, 255), 0.6, 0)
    back_to_front = sorted(range(len(ids)), key=lambda layer: -depth_ranks[layer])
    masks = {
        layer: _nearest(amodal[..., layer].astype(np.uint8), height, width)
        for layer in back_to_front
    }
    for layer in back_to_front:
        paint_mask(image, masks[layer], ids[layer])
    for layer in back_to_front:
        paint_label(image, masks[layer], ids[layer], f"{ids[layer]}: {depth_ranks[layer]}")
    return image


def _grid(
    columns: list[list[UInt8[np.ndarray, "h w 3"]]], stems: Sequence[str]
) -> UInt8[np.ndarray, "H W 3"]:
    height, width, _ = columns[0][0].shape
    head = 22
    sheet = np.full(
        (
            head + len(_ROWS) * (height + _GAP),
            _MARGIN + len(columns) * (width + _GAP),
            3,
        ),
        255,
        np.uint8,
    )
    for column, tiles in enumerate(columns):
        left = _MARGIN + column * (width + _GAP)
        _write(sheet, stems[column], left, head - 7)
        for row, tile in enumerate(tiles):
            top = head + row * (height + _GAP)
            sheet[top : top + height, left : left + width] = tile
    for row, name in enumerate(_ROWS):
        _write(sheet, name, 8, head + row * (height + _GAP) + height // 2)
    _write(sheet, "id: depth", 8, head + 3 * (height + _GAP) + height // 2 + 18)
    _write(sheet, "(0 = front)", 8, head + 3 * (height + _GAP) + height // 2 + 36)
    return sheet


def _write(image: UInt8[np.ndarray, "h w 3"], text: str, x: int, y: int) -> None:
    cv2.putText(image, text, (x, y), _FONT, 0.42, (40, 40, 40), 1, cv2.LINE_AA)


def _nearest(mask: UInt8[np.ndarray, "h w"], height: int, width: int) -> UInt8[np.ndarray, "H W"]:
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
