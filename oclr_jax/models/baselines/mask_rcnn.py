"""Mask R-CNN on optical flow, with or without frames: objects of single frames.

He, Gkioxari, Dollar, Girshick: "Mask R-CNN" (ICCV 2017), a baseline of both papers, which publish
neither backbone nor flow channels, anchors, thresholds, linking nor kind of masks. Chosen here:
ResNet-50-FPN from random parameters; the flow that OCLR sees, each frame normalised, and frames as
further channels; one class; visible (modal) masks; anchors of twice a level's stride.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt8

from oclr_jax.models.baselines.resnet_fpn import STRIDES, FeaturePyramid, ResNet
from oclr_jax.models.dino import normalize_images
from oclr_jax.models.layers.initializers import conv_kernel, dense_kernel
from oclr_jax.models.parameters import flatten
from oclr_jax.models.raft.encoder import encoder_kernel
from oclr_jax.models.refinement_config import check_counts, config_from_dict
from oclr_jax.ops.boxes import (
    RATIOS,
    clip_boxes,
    crop_levels,
    decode_boxes,
    make_anchors,
    paste_masks,
    roi_align,
    suppress,
)
from oclr_jax.ops.detection_losses import HEAD_SCALE
from oclr_jax.types import PRECISIONS

INPUTS = ("flow", "rgb+flow")
_BOX_CROP, _MASK_CROP = 7, 14  # rows and columns of crops; masks have twice those of theirs
_MASK_CONVOLUTIONS = 4
_PROPOSAL_OVERLAP, _DETECTION_OVERLAP = 0.7, 0.5  # of non-maximum suppression
_STILL = 0.5  # pixels, added to the deviation of the flow, so that noise stays small
_SMALLEST = 1.0  # pixel; side of a proposal


@dataclass(frozen=True)
class MaskRCNNConfig:
    """Dimensions and switches. Raises ValueError for values that make no model."""

    inputs: str = "flow"  # or "rgb+flow"
    height: int = 128  # rows of the input
    width: int = 224  # columns of the input
    stem: int = 64  # channels of the first stage
    blocks: tuple[int, ...] = (3, 4, 6, 3)  # of the four stages
    features: int = 256  # channels of the pyramid and of the mask head
    hidden: int = 1024  # units of the box head
    candidates: int = 256  # of each level, before suppression
    proposals: int = 128  # of a frame, after suppression
    detections: int = 3  # of a frame, at most
    min_score: float = 0.5  # of a detection
    gaps: tuple[int, ...] = (1, -1)  # of the flow
    frames: int = 30  # of a window in which objects are scored and tracked; the model has no time
    compute_dtype: str = "float32"  # of convolutions, or "bfloat16"

    def __post_init__(self):
        check_counts(
            self,
            (
                *("height", "width", "stem", "features", "hidden", "candidates", "proposals"),
                *("detections", "frames"),
            ),
        )
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs must be one of {', '.join(INPUTS)}: {self.inputs!r}")
        if len(self.blocks) != 4 or not all(type(n) is int and n > 0 for n in self.blocks):
            raise ValueError(f"blocks must be four positive integers: {self.blocks}")
        if not self.gaps or 0 in self.gaps or not all(type(gap) is int for gap in self.gaps):
            raise ValueError(f"gaps must be whole numbers other than 0: {self.gaps}")
        if not 0 <= self.min_score < 1:
            raise ValueError(f"min_score must be in [0, 1): {self.min_score}")
        if self.detections > self.proposals:
            raise ValueError("there cannot be more detections than proposals")
        if self.compute_dtype not in PRECISIONS:
            raise ValueError(f"compute_dtype must be float32 or bfloat16: {self.compute_dtype!r}")
        if self.height % STRIDES[3] or self.width % STRIDES[3]:
            raise ValueError(
                f"height {self.height} and width {self.width} must be multiples of {STRIDES[3]}"
            )

    @property
    def queries(self) -> int:
        """Layers of a window."""
        return self.detections

    @property
    def order_from(self) -> str:
        """Where the depth order comes from."""
        return "scores of detections"

    @property
    def channels(self) -> int:
        """Of the input."""
        return 2 * len(self.gaps) + (3 if self.inputs == "rgb+flow" else 0)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"blocks": list(self.blocks), "gaps": list(self.gaps)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MaskRCNNConfig":
        """Inverse of `to_dict`. Raises ValueError for missing, unknown or mistyped fields."""
        return config_from_dict(cls, values)


class Proposals(NamedTuple):
    """Regions of n frames in which there may be an object.

    valid: False for what fills up; its box has no meaning.
    """

    boxes: Float[Array, "n p 4"]
    valid: Bool[Array, "n p"]


class Detections(NamedTuple):
    """Objects of n frames, the highest score first.

    scores: 0 to 1; 0 where there are fewer objects.
    masks: foreground probability in the whole frame; 0 where there are fewer objects.
    """

    boxes: Float[Array, "n d 4"]
    scores: Float[Array, "n d"]
    masks: Float[Array, "n h w d"]


def model_input(
    config: MaskRCNNConfig,
    flow: Float[Array, "n h w c"],
    frames: UInt8[Array, "n h w 3"] | None = None,
) -> Float[Array, "n h w d"]:
    """The input of the network: flow (u, v) per gap in pixels, and RGB frames where it sees them.

    Each channel of flow is normalised over the frame, so that neither a pan nor the speed counts.
    """
    mean = flow.mean(axis=(1, 2), keepdims=True)
    deviation = jnp.sqrt(jnp.square(flow - mean).mean(axis=(1, 2), keepdims=True))
    flow = (flow - mean) / (deviation + _STILL)
    if config.inputs == "flow":
        return flow
    return jnp.concatenate([flow, normalize_images(frames.astype(jnp.float32) / 255)], axis=-1)


class MaskRCNN(nn.Module):
    """The network, in parts: `model.apply(variables, inputs, method="pyramid")` and so on.

    Variables: "params" and "batch_stats".

    Attributes:
      axis_name: of the devices, over which batch statistics are averaged in training.
    """

    config: MaskRCNNConfig
    axis_name: str | None = None

    def setup(self):
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        self.backbone = ResNet(config.stem, config.blocks, self.axis_name, dtype)
        self.feature_pyramid = FeaturePyramid(config.features, dtype)
        self.proposal_head = ProposalHead(config.features, dtype)
        self.box_head = BoxHead(config.hidden, dtype)
        self.mask_head = MaskHead(config.features, dtype)

    def pyramid(
        self, inputs: Float[Array, "n h w c"], train: bool = False
    ) -> list[Float[Array, "n _h _w d"]]:
        """Features at all strides; in training with the batch's own statistics."""
        return self.feature_pyramid(self.backbone(inputs, train))

    def score_anchors(
        self, levels: list[Float[Array, "n _h _w d"]]
    ) -> tuple[list[Float[Array, "n _a"]], list[Float[Array, "n _a 4"]]]:
        """Logits and box regression of the anchors of every level, in the order of anchors."""
        pairs = [self.proposal_head(level) for level in levels]
        return [logits for logits, _ in pairs], [deltas for _, deltas in pairs]

    def classify(
        self, levels: list[Float[Array, "n _h _w d"]], boxes: Float[Array, "n r 4"]
    ) -> tuple[Float[Array, "n r"], Float[Array, "n r 4"]]:
        """Logit of being an object, and box regression, of boxes."""
        return self.box_head(crop(levels, boxes, _BOX_CROP))

    def mask_logits(
        self, levels: list[Float[Array, "n _h _w d"]], boxes: Float[Array, "n r 4"]
    ) -> Float[Array, "n r m m"]:
        """Logits of the masks inside of boxes."""
        return self.mask_head(crop(levels, boxes, _MASK_CROP))

    def __call__(self, inputs: Float[Array, "n h w c"]) -> Any:
        """All parts, on arbitrary boxes: to initialise the parameters."""
        levels = self.pyramid(inputs)
        boxes = jnp.broadcast_to(jnp.array([0.0, 0, 8, 8]), (len(inputs), 1, 4))
        return self.score_anchors(levels), self.classify(levels, boxes), self.mask_logits(
            levels, boxes
        )  # fmt: skip


def crop(
    levels: list[Float[Array, "n _h _w d"]], boxes: Float[Array, "n r 4"], size: int
) -> Float[Array, "n r {size} {size} d"]:
    """Crops of the boxes of every frame, each from the level that its size asks for."""
    usable = levels[:4]  # the coarsest level only proposes

    def of_frame(features: list[Array], own: Float[Array, "r 4"]) -> Array:
        return roi_align(features, STRIDES[:4], own, crop_levels(own, len(usable)), size)

    return jax.vmap(of_frame)(usable, boxes)


class ProposalHead(nn.Module):
    """The region proposal network: an objectness logit and a box for every anchor."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, level: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n _a"], Float[Array, "n _a 4"]]:
        x = nn.Conv(self.features, (3, 3), dtype=self.dtype, kernel_init=conv_kernel, name="conv")
        x = nn.relu(x(level))
        small = nn.initializers.normal(0.01)
        outputs = [
            nn.Dense(count * len(RATIOS), dtype=self.dtype, kernel_init=small, name=name)(x)
            for name, count in (("logits", 1), ("deltas", 4))
        ]
        logits, deltas = (x.astype(jnp.float32) for x in outputs)
        return logits.reshape(len(level), -1), deltas.reshape(len(level), -1, 4)


class BoxHead(nn.Module):
    """Two hidden layers on a crop: whether it is an object, and its box."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, crops: Float[Array, "n r s s c"]
    ) -> tuple[Float[Array, "n r"], Float[Array, "n r 4"]]:
        x = crops.reshape(*crops.shape[:2], -1)
        for index in (1, 2):
            layer = nn.Dense(
                self.hidden, dtype=self.dtype, kernel_init=dense_kernel, name=f"hidden{index}"
            )
            x = nn.relu(layer(x))
        logit = nn.Dense(1, kernel_init=nn.initializers.normal(0.01), name="logit")
        deltas = nn.Dense(4, kernel_init=nn.initializers.normal(0.001), name="deltas")
        x = x.astype(jnp.float32)
        return logit(x)[..., 0], deltas(x)


class MaskHead(nn.Module):
    """Convolutions on a crop, upsampled by two, to the logits of a mask."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, crops: Float[Array, "n r s s c"]) -> Float[Array, "n r 2*s 2*s"]:
        n, r, side, *_ = crops.shape
        x = crops.reshape(n * r, side, side, -1)
        for index in range(1, _MASK_CONVOLUTIONS + 1):
            layer = nn.Conv(
                self.features,
                (3, 3),
                dtype=self.dtype,
                kernel_init=encoder_kernel,
                name=f"conv{index}",
            )
            x = nn.relu(layer(x))
        # A transposed 2x2 convolution with stride 2: four outputs of each cell.
        x = nn.Dense(
            4 * self.features, dtype=self.dtype, kernel_init=dense_kernel, name="upsample"
        )(x)
        x = nn.relu(x.reshape(n * r, side, side, 2, 2, -1)).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, r, 2 * side, 2 * side, -1).astype(jnp.float32)
        return nn.Dense(1, kernel_init=dense_kernel, name="logits")(x)[..., 0]


def propose(
    config: MaskRCNNConfig,
    size: tuple[int, int],
    logits: list[Float[Array, "n _a"]],
    deltas: list[Float[Array, "n _a 4"]],
) -> Proposals:
    """The regions that the anchors of frames of `size` (height, width) propose.

    Of every level the anchors of the highest logits, suppressed within the level; then the highest
    of all levels. No gradient passes.
    """

    def of_level(anchors, logits, deltas):
        scores, index = jax.lax.top_k(logits, min(config.candidates, len(logits)))
        boxes = clip_boxes(decode_boxes(deltas[index], anchors[index]), *size)
        large = (boxes[:, 2:] - boxes[:, :2]).min(axis=-1) >= _SMALLEST
        scores = jnp.where(large, scores, -jnp.inf)
        stays = suppress(boxes, scores, _PROPOSAL_OVERLAP)
        return boxes, jnp.where(stays, scores, -jnp.inf)

    def of_frame(logits, deltas):
        anchors = [jnp.asarray(each) for each in make_anchors(*size, STRIDES)]
        pairs = [of_level(*level) for level in zip(anchors, logits, deltas, strict=True)]
        boxes, scores = (jnp.concatenate(parts) for parts in zip(*pairs, strict=True))
        count = config.proposals
        missing = max(count - len(scores), 0)
        scores = jnp.pad(scores, (0, missing), constant_values=-jnp.inf)
        boxes = jnp.pad(boxes, ((0, missing), (0, 0)))
        scores, index = jax.lax.top_k(scores, count)
        return Proposals(boxes[index], jnp.isfinite(scores))

    return jax.lax.stop_gradient(jax.vmap(of_frame)(logits, deltas))


def detect(config: MaskRCNNConfig, variables: Any, inputs: Float[Array, "n h w c"]) -> Detections:
    """The objects of n frames, each on its own; `inputs` from `model_input`."""
    model, size = MaskRCNN(config), inputs.shape[1:3]

    def part(name: str, *arguments: Any) -> Any:
        return model.apply(variables, *arguments, method=name)

    levels = part("pyramid", inputs)
    proposals = propose(config, size, *part("score_anchors", levels))
    logits, deltas = part("classify", levels, proposals.boxes)

    def best(boxes, valid, logits, deltas):
        boxes = clip_boxes(decode_boxes(deltas, boxes, HEAD_SCALE), *size)
        scores = jnp.where(valid, logits, -jnp.inf)
        stays = suppress(boxes, scores, _DETECTION_OVERLAP)
        scores, index = jax.lax.top_k(jnp.where(stays, scores, -jnp.inf), config.detections)
        scores = jax.nn.sigmoid(scores)
        return boxes[index], jnp.where(scores >= config.min_score, scores, 0.0)

    boxes, scores = jax.vmap(best)(*proposals, logits, deltas)
    masks = jax.nn.sigmoid(part("mask_logits", levels, boxes))
    pasted = jax.vmap(lambda m, b: paste_masks(m, b, *size))(masks, boxes)
    pasted = jnp.where(scores[:, :, None, None] > 0, pasted, 0.0)
    return Detections(boxes, scores, jnp.moveaxis(pasted, 1, -1))


def init_variables(config: MaskRCNNConfig, seed: int) -> dict[str, Any]:
    """Random parameters and batch statistics; they do not depend on the size of the input."""
    side = STRIDES[-1]
    inputs = jnp.zeros((1, side, side, config.channels))
    return dict(MaskRCNN(config).init(jax.random.key(seed), inputs))


def parameter_shapes(config: MaskRCNNConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every variable, by its path `params/a/b` or `batch_stats/a/b`."""
    variables = jax.eval_shape(lambda: init_variables(config, 0))
    return {path: leaf.shape for path, leaf in flatten(variables).items()}
