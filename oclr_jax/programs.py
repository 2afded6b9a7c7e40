"""`oclr export-model`: models as programs that jax runs without this package.

A program is a zip file: `program.bin`, which `jax.export` reads, has the computation and the
weights; `program.json` names inputs and outputs. `launch/run_program.py` shows how to run one.
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import oclr_jax
from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.models.backbones import encode_images
from oclr_jax.models.corrector import Corrector, CorrectorConfig, Exemplars
from oclr_jax.models.dino import normalize_images
from oclr_jax.models.oclr import OCLR
from oclr_jax.models.selector import Selector, SelectorConfig
from oclr_jax.oclr.predict import make_predict_fn
from oclr_jax.refine.appearance_models import AppearanceModel, load_appearance_model
from oclr_jax.types import PRECISIONS
from oclr_jax.weights.file import load_weights

PROGRAMS = ("flow", "selector", "corrector")
PLATFORMS = ("cpu", "cuda", "tpu")
# The earliest that a zip file can state, so that the same weights give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


class _Array(NamedTuple):
    """An input or output of a program."""

    name: str
    shape: tuple[int | str, ...]  # a letter is a size that may be chosen
    dtype: str
    meaning: str


class _Program(NamedTuple):
    function: Callable[..., tuple]
    inputs: list[_Array]
    outputs: list[_Array]
    about: dict[str, Any]


def export_model(
    output: str | os.PathLike,
    program: str = "flow",
    weights: str | os.PathLike | None = None,
    refine_weights: str | os.PathLike | None = None,
    precision: str = "float32",
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Writes a model with its weights as a program, whole or not at all.

    Args:
      output: the zip file; an existing one is replaced.
      program: one of PROGRAMS. flow: from optical flow to layers. selector, corrector: the models
        of the refiners of the same names, backbone included.
      weights: of the program flow: name or file, None for those of the package.
      refine_weights: folder with the weights of selector and corrector; None for the default ones.
      precision: of the computation, "float32" or "bfloat16".
      platforms: some of PLATFORMS, on which the program can run.

    Returns:
      the content of program.json.

    Raises:
      UserError: there is no such program or platform, or the weights are missing or unusable.
    """
    if program not in PROGRAMS:
        raise UserError(f"There is no program {program!r}; choose from {', '.join(PROGRAMS)}.")
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision {precision!r}; choose {' or '.join(PRECISIONS)}.")
    if not platforms or set(platforms) - set(PLATFORMS):
        raise UserError(f"Platforms are {', '.join(PLATFORMS)}; name at least one of them.")
    if program == "flow":
        if refine_weights is not None:
            raise UserError("The program flow has its weights from --weights.")
        made = _flow_program(weights, precision)
    else:
        if weights is not None:
            raise UserError(f"The program {program} has its weights from --refine-weights.")
        model = load_appearance_model(program, refine_weights)
        config = dataclasses.replace(model.config, compute_dtype=precision)
        params = jax.tree.map(jnp.asarray, model.params)
        model = dataclasses.replace(model, config=config, params=params)
        make = _selector_program if program == "selector" else _corrector_program
        made = make(model)
    (batch,) = export.symbolic_shape("b")
    specs = [
        jax.ShapeDtypeStruct(
            tuple(batch if side == "b" else side for side in array.shape), np.dtype(array.dtype)
        )
        for array in made.inputs
    ]
    exported = export.export(jax.jit(made.function), platforms=tuple(platforms))(*specs)
    about = {
        "program": program,
        **made.about,
        "precision": precision,
        "platforms": list(platforms),
        "inputs": [array._asdict() for array in made.inputs],
        "outputs": [array._asdict() for array in made.outputs],
        "oclr_jax": oclr_jax.__version__,
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
    }
    contents = {
        "program.json": json.dumps(about, indent=1).encode(),
        "program.bin": _serialized(exported),
    }
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name, _DATE)
            archive.writestr(info, content, zipfile.ZIP_DEFLATED, compresslevel=6)
    return about


def _serialized(exported: export.Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise UserError(
            "Writing programs needs the package flatbuffers; pip install 'oclr_jax[programs]'."
        ) from error


def _flow_program(weights: str | os.PathLike | None, precision: str) -> _Program:
    params, info = load_weights(weights)
    config = dataclasses.replace(info.model, remat=False, compute_dtype=precision)
    predict = make_predict_fn(OCLR(config))
    grid = (config.frames, config.height, config.width)
    gaps = ", ".join(map(str, config.gaps))
    return _Program(
        lambda flow: predict(params, flow),
        [
            _Array(
                "flow",
                ("b", *grid, 2 * len(config.gaps)),
                "float32",
                f"(u, v) = (right, down) from each frame to those at the gaps {gaps}, in pixels of "
                "this grid; where there is no such frame, the flow at the opposite gap, negated",
            )
        ],
        [
            _Array("amodal", ("b", *grid, config.queries), "float32", "probability of each layer"),
            _Array("order", ("b", config.queries), "float32", "pseudo-depth, lowest in front"),
        ],
        {"weights": info.name, "gaps": list(config.gaps), "flow": info.flow},
    )


def _about(model: AppearanceModel) -> dict[str, Any]:
    return {"weights": model.info.name, "backbone": model.config.backbone}


def _features(model: AppearanceModel, images: jax.Array) -> jax.Array:
    return encode_images(model.config, model.params, model.backbone, images)


def _images(frames: jax.Array) -> jax.Array:
    return normalize_images(frames.astype(jnp.float32) / 255)


def _selector_program(model: AppearanceModel) -> _Program:
    config: SelectorConfig = model.config
    t, size = config.frames, (config.height, config.width)

    def judge(frames, masks, length):
        images = _images(frames)
        inputs = (images[None], masks[None, ..., None].astype(jnp.float32))
        features = _features(model, images)[None]
        params = {"params": model.params}
        found = Selector(config).apply(params, *inputs, features, length[None])
        if found.error_logits is None:
            return (found.quality[0, :, 0],)
        return found.quality[0, :, 0], jax.nn.softmax(found.error_logits)[0, ..., 0, :]

    outputs = [_Array("quality", (t,), "float32", "of each mask, higher is better")]
    if config.predicts == "error_map":
        meaning = "probability that a pixel is a false positive, correct, or a false negative"
        outputs.append(_Array("error_map", (t, *size, 3), "float32", meaning))
    return _Program(
        judge,
        [
            _Array("frames", (t, *size, 3), "uint8", "RGB"),
            _Array("masks", (t, *size), "uint8", "visible mask of one object, 0 or 1"),
            _Array("length", (), "int32", "number of frames; the others are padding"),
        ],
        outputs,
        _about(model),
    )


def _corrector_program(model: AppearanceModel) -> _Program:
    config: CorrectorConfig = model.config
    t, e, k, size = config.frames, config.exemplars, config.objects, (config.height, config.width)

    def correct(frames, masks, numbers, shown, shown_masks, scores, shown_numbers, valid):
        images = _images(frames)
        shown = _features(model, _images(shown.reshape(e * k, *size, 3)))
        exemplars = Exemplars(
            features=shown.reshape(1, e, k, *shown.shape[1:]),
            masks=shown_masks[None].astype(jnp.float32),
            scores=scores[None],
            frames=shown_numbers[None],
            valid=valid[None],
        )
        found = Corrector(config).apply(
            {"params": model.params},
            images[None],
            masks[None].astype(jnp.float32),
            _features(model, images)[None],
            exemplars,
            numbers[None],
        )
        return (jax.nn.sigmoid(found.mask_logits)[0],)

    return _Program(
        correct,
        [
            _Array("frames", (t, *size, 3), "uint8", "RGB, consecutive frames"),
            _Array("masks", (t, *size, k), "uint8", "visible masks, 0 or 1; no object: zeros"),
            _Array("numbers", (t,), "int32", "numbers of the frames in the video"),
            _Array("exemplar_frames", (e, k, *size, 3), "uint8", "RGB, for each object its own"),
            _Array("exemplar_masks", (e, *size, k), "uint8", "good masks, 0 or 1"),
            _Array("exemplar_scores", (e, k), "float32", "weights, not negative"),
            _Array("exemplar_numbers", (e, k), "int32", "numbers of their frames in the video"),
            _Array("exemplar_valid", (e, k), "bool", "False for padding"),
        ],
        [_Array("masks", (t, *size, k), "float32", "probability of each refined mask")],
        _about(model),
    )
