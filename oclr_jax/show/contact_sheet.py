"""A summary picture of a result: some frames with their flow, modal masks and amodal masks."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from oclr_jax.show.flow_color import color_scale, flow_to_rgb
from oclr_jax.show.grid import picture_grid
from oclr_jax.show.overlay import paint_ids, paint_label, paint_mask
from oclr_jax.video.resize import resize_ids, resize_image

_GAP = 6  # white pixels between pictures
_ROW_TITLES = ("frame", "flow", "modal", "amodal\nid: depth\n(0 = front)")


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
    """Draws a column per frame: the frame, its flow, modal masks, and amodal masks with depth.

    Each input may have its own resolution.

    Args:
      frames: RGB.
      flow: one gap, in pixels of its own grid. All columns share one colour scale.
      modal: object ids, 0 = background.
      amodal: `amodal[..., j]` is the mask of object `ids[j]`.
      ids: object ids.
      depth_ranks: depth of each object in `ids`, 0 = front. Amodal masks are painted back to front
        and labelled `id: rank`.
      stems: column titles.
      tile_height: rows of one picture.
    """
    height, width = tile_height, round(tile_height * frames.shape[2] / frames.shape[1])
    longest = color_scale(flow)
    columns = []
    for index in range(len(frames)):
        frame = resize_image(frames[index], height, width)
        columns.append(
            [
                frame,
                resize_image(flow_to_rgb(flow[index], longest), height, width),
                paint_ids(frame, resize_ids(modal[index], height, width)),
                _paint_amodal(frame, amodal[index], ids, depth_ranks),
            ]
        )
    rows = list(zip(*columns, strict=True))
    return picture_grid(rows, _GAP, column_titles=stems, row_titles=_ROW_TITLES)


def _paint_amodal(
    frame: UInt8[np.ndarray, "h w 3"],
    amodal: Bool[np.ndarray, "ah aw k"],
    ids: Sequence[int],
    depth_ranks: Sequence[int],
) -> UInt8[np.ndarray, "h w 3"]:
    height, width = frame.shape[:2]
    # A pale frame, so that masks and their overlaps stand out.
    image = cv2.addWeighted(frame, 0.4, np.full_like(frame, 255), 0.6, 0)
    back_to_front = sorted(range(len(ids)), key=lambda layer: -depth_ranks[layer])
    masks = {
        layer: resize_ids(amodal[..., layer].astype(np.uint8), height, width)
        for layer in back_to_front
    }
    for layer in back_to_front:
        paint_mask(image, masks[layer], ids[layer])
    for layer in back_to_front:
        paint_label(image, masks[layer], ids[layer], f"{ids[layer]}: {depth_ranks[layer]}")
    return image
