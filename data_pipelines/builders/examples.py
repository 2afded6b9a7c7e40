"""The examples of `oclr_syn`: their features, and the encoding of a rendered clip."""

from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float16, Float32, UInt8

from data_pipelines.synthetic import Sample, SceneConfig, SceneKind
from data_pipelines.synthetic.scene import LAYERS
from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.gaps import gap_flows
from oclr_jax.flow.resize import resize_flow

FLOW_STEP = 1 / 64  # px; stored flow is rounded to this, which halves its size on disk
JPEG_QUALITY = 95


def features(scene: SceneConfig) -> tfds.features.FeaturesDict:
    """The documented features of an example."""
    t, h, w = scene.frames, scene.height, scene.width

    def array(shape, dtype, doc):
        # Raw bytes: the record is compressed anyway, and decoding is a view.
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes", doc=doc)

    def flow(doc):
        return array(
            (t, h, w, 2),
            np.float16,
            f"{doc}; (u, v) = (right, down) in pixels of this grid, float16 rounded to 1/64 px "
            "(error up to 1/128 px below 32 px, 1/64 px below 64 px, 1/32 px below 128 px)",
        )

    def occlusion(name):
        return array(
            (t, h, w, 1),
            np.uint8,
            f"visibility of each pixel's surface where {name} moves it: 0 visible, 1 occluded, 2 "
            "outside the frame, 3 there is no such frame",
        )

    return tfds.features.FeaturesDict(
        {
            "video": {
                "frames": tfds.features.Sequence(
                    tfds.features.Image(
                        shape=(scene.render_height, scene.render_width, 3),
                        encoding_format="jpeg",
                        doc=f"RGB, uint8, at the rendering resolution; JPEG quality {JPEG_QUALITY}",
                    ),
                    length=t,
                ),
                "segmentations": array(
                    (t, h, w, 1), np.uint8, "visible (modal) masks: layer + 1, 0 = background"
                ),
            },
            "metadata": {
                "num_frames": tfds.features.Scalar(np.int64, doc="number of frames T"),
                "video_name": tfds.features.Text(doc="split and index of the sequence"),
                "background": tfds.features.Text(doc="image or video; see table B5"),
                "motion": tfds.features.Text(doc="homography or spline; see table B5"),
                "shape": tfds.features.Text(doc="polygon or silhouette; see table B5"),
            },
            "forward_flow": flow(
                "exact flow of the visible surface from each frame to the next; the last frame's "
                "is its backward flow negated; of a real background video it is estimated on the "
                "background alone"
            ),
            "backward_flow": flow(
                "exact flow of the visible surface from each frame to the one before; the first "
                "frame's is its forward flow negated"
            ),
            "forward_occlusion": occlusion("forward_flow"),
            "backward_occlusion": occlusion("backward_flow"),
            "estimated_forward_flow": flow(
                "as forward_flow, estimated from `frames` before JPEG by the estimator in the "
                "dataset's metadata and resized to this grid"
            ),
            "estimated_backward_flow": flow(
                "as backward_flow, estimated from `frames` before JPEG by the estimator in the "
                "dataset's metadata and resized to this grid"
            ),
            "amodal_segmentations": array(
                (t, h, w, LAYERS),
                np.uint8,
                "0/1 masks of whole objects inside the frame, occluded parts included; layers "
                "front to back, empty ones last",
            ),
            "occluder": array(
                (t, h, w, 1),
                np.uint8,
                "0/1 mask of the artificial occluder: in front of all layers, moves with the "
                "background, is not a layer",
            ),
            "layer_order": tfds.features.Tensor(
                shape=(LAYERS,),
                dtype=np.int32,
                doc="depth rank of each layer, 0 = front; -1 = empty",
            ),
            "visibility": tfds.features.Tensor(
                shape=(t, LAYERS),
                dtype=np.float32,
                doc="visible fraction of the amodal area of each layer",
            ),
            "stationary": array(
                (t, LAYERS), np.bool_, "whether a layer is at rest relative to the background"
            ),
        }
    )


def encode_sample(
    sample: Sample, kind: SceneKind, estimator: FlowEstimator, name: str
) -> dict[str, Any]:
    """Encodes a rendered sample as an example of `features`, with estimated flow."""
    height, width = sample["forward_flow"].shape[1:3]
    estimated = resize_flow(gap_flows(sample["video"], (1, -1), estimator), height, width)
    return {
        "video": {
            "frames": [encode_jpeg(frame) for frame in sample["video"]],
            "segmentations": sample["segmentations"][..., None],
        },
        "metadata": {
            "num_frames": len(sample["video"]),
            "video_name": name,
            "background": kind.background,
            "motion": kind.motion,
            "shape": kind.shape,
        },
        "forward_flow": encode_flow(sample["forward_flow"]),
        "backward_flow": encode_flow(sample["backward_flow"]),
        "forward_occlusion": sample["forward_occlusion"][..., None],
        "backward_occlusion": sample["backward_occlusion"][..., None],
        "estimated_forward_flow": encode_flow(estimated[..., :2]),
        "estimated_backward_flow": encode_flow(estimated[..., 2:]),
        "amodal_segmentations": sample["amodal"],
        "occluder": sample["occluder"][..., None],
        "layer_order": sample["layer_order"],
        "visibility": sample["visibility"],
        "stationary": sample["stationary"],
    }


def footage_settings(scene: SceneConfig) -> dict[str, int]:
    """The sizes of a scene as JSON values, all that counts of it where nothing is rendered."""
    names = ("frames", "height", "width", "render_height", "render_width")
    return {name: getattr(scene, name) for name in names}


def encode_footage(
    frames: UInt8[np.ndarray, "t h w 3"],
    amodal: UInt8[np.ndarray, "t _h _w k"],
    flow: Float32[np.ndarray, "t _h _w 4"],
    name: str,
) -> dict[str, Any]:
    """Encodes a clip that was not rendered as an example of `features`.

    Its exact flow is unknown and stored as NaN, which the loaders refuse.

    Args:
      frames: at the rendering resolution.
      amodal: 0/1 masks, layers front to back, empty ones last.
      flow: estimated, at gaps 1 and -1, in pixels of the grid of the masks.
      name: of the sequence.
    """
    t, h, w, layers = amodal.shape
    segmentations = np.zeros((t, h, w), np.uint8)
    for layer in reversed(range(layers)):
        segmentations[amodal[..., layer] == 1] = layer + 1
    seen = np.stack([(segmentations == k + 1).sum((1, 2)) for k in range(layers)], 1)
    objects = int(amodal.any((0, 1, 2)).sum())
    unknown = np.full((t, h, w, 2), np.nan, np.float16)
    nothing = np.zeros((t, h, w, 1), np.uint8)
    return {
        "video": {
            "frames": [encode_jpeg(frame) for frame in frames],
            "segmentations": segmentations[..., None],
        },
        "metadata": {
            "num_frames": t,
            "video_name": name,
            "background": "unknown",
            "motion": "unknown",
            "shape": "unknown",
        },
        "forward_flow": unknown,
        "backward_flow": unknown,
        "forward_occlusion": nothing,
        "backward_occlusion": nothing,
        "estimated_forward_flow": encode_flow(flow[..., :2]),
        "estimated_backward_flow": encode_flow(flow[..., 2:]),
        "amodal_segmentations": amodal,
        "occluder": nothing,
        "layer_order": np.array([k if k < objects else -1 for k in range(layers)], np.int32),
        "visibility": (seen / np.maximum(amodal.sum((1, 2)), 1)).astype(np.float32),
        "stationary": np.zeros((t, layers), np.bool_),
    }


def encode_flow(flow: Float32[np.ndarray, "*s 2"]) -> Float16[np.ndarray, "*s 2"]:
    """Rounds flow in px to `FLOW_STEP`, or to float16 where that is coarser.

    The error is at most 1/128 px below 32 px, where float16 represents multiples of 1/64 exactly,
    and half a float16 step above. Noise below 1/64 px would not compress.
    """
    rounded = np.where(np.abs(flow) < 32, np.rint(flow / FLOW_STEP) * FLOW_STEP, flow)
    # Flow beyond the largest float16 would become infinite; no real motion is that large.
    largest = np.finfo(np.float16).max
    return np.clip(rounded, -largest, largest).astype(np.float16)


def encode_jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encodes an RGB frame as JPEG."""
    # OpenCV encodes BGR; TFDS decodes to RGB.
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    return data.tobytes()
