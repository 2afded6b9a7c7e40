"""Degradation by a camera: motion blur, noise, compression."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from data_pipelines.synthetic.scene import Sensor
from oclr_jax.flow.resize import resize_flow

_EXPOSURES = 5  # images that are averaged for motion blur
_SLACK = 32  # pixels by which the noise is larger than a frame; its offset differs per frame


def expose(
    video: UInt8[np.ndarray, "t h w 3"], flow: Float32[np.ndarray, "t gh gw 2"], sensor: Sensor
) -> None:
    """Degrades the frames in place.

    Args:
      video: ideal RGB frames.
      flow: from each frame to the next, pixels of its own grid; the direction of motion blur.
      sensor: amounts.
    """
    height, width = video.shape[1:3]
    noise = None
    if sensor.noise > 0:
        rng = np.random.default_rng(sensor.seed)
        noise = rng.standard_normal((height + _SLACK, width + _SLACK, 3), dtype=np.float32)
        noise = np.rint(noise * np.float32(sensor.noise)).astype(np.int16)
        shifts = rng.integers(_SLACK, size=(len(video), 2))
    for t, frame in enumerate(video):
        if sensor.shutter > 0:
            frame[:] = _blur(frame, flow[t], sensor.shutter)
        if noise is not None:
            top, left = shifts[t]
            grain = noise[top : top + height, left : left + width]
            cv2.add(frame, grain, dst=frame, dtype=cv2.CV_8U)
        if sensor.quality:
            coded = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)  # the encoder's order
            _, data = cv2.imencode(".jpg", coded, [cv2.IMWRITE_JPEG_QUALITY, sensor.quality])
            frame[:] = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def _blur(
    frame: UInt8[np.ndarray, "h w 3"], flow: Float32[np.ndarray, "gh gw 2"], shutter: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The mean of the frame along its motion while the shutter is open."""
    height, width = frame.shape[:2]
    # Smoothed, so that outlines are blurred on both sides.
    streak = cv2.GaussianBlur(resize_flow(flow, height, width), (0, 0), 2.0) * np.float32(shutter)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    total = np.zeros(frame.shape, np.float32)
    for share in np.linspace(-0.5, 0.5, _EXPOSURES, dtype=np.float32):
        at = (x + share * streak[..., 0], y + share * streak[..., 1])
        shown = cv2.remap(frame, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        cv2.accumulate(shown, total)
    return np.rint(total / _EXPOSURES).astype(np.uint8)
