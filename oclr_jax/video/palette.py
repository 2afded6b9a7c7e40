"""The colours of object ids, everywhere: the palette of DAVIS."""

import numpy as np
from jaxtyping import UInt8


def _palette() -> UInt8[np.ndarray, "256 3"]:
    # PASCAL VOC's rule, which DAVIS took over: the bits of the id are dealt in turn to red, green
    # and blue, from each channel's highest bit down.
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for round_ in range(8):
        for channel in range(3):
            bit = (ids >> (3 * round_ + channel)) & 1
            colours[:, channel] |= (bit << (7 - round_)).astype(np.uint8)
    return colours


# Row = object id, RGB; 0 is the background, black; 1 is [128, 0, 0], 2 is [0, 128, 0].
DAVIS_PALETTE = _palette()
DAVIS_PALETTE.setflags(write=False)
