"""Size, precision and read time of encodings of clips: `python launch/benchmark.py encodings`.

Clips are written to an array_record file as the builders do, one sequence per record, and read
back; times are of one core. The encoding that the builders use is marked with *.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zlib import compress, decompress

import cv2
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float32, UInt8

from data_pipelines.builders.examples import FLOW_STEP, encode_flow, encode_jpeg
from data_pipelines.builders.oclr_syn import OclrSynConfig, render_seen
from data_pipelines.synthetic import SceneConfig
from oclr_jax.flow.dis import DIS
from oclr_jax.flow.gaps import gap_flows
from oclr_jax.flow.resize import resize_flow

_ZERO = 2**15  # zero flow as an unsigned integer


class Encoding(NamedTuple):
    """An encoding of an array of a sequence: `decode(encode(x), x)` is approximately x."""

    name: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, np.ndarray], np.ndarray]


def _steps(flow: Float32[np.ndarray, "t h w 2"]) -> np.ndarray:
    return np.clip(np.rint(flow / FLOW_STEP) + _ZERO, 0, 2**16 - 1).astype(np.uint16)


def _from_steps(steps: np.ndarray) -> np.ndarray:
    return (steps.astype(np.float32) - _ZERO) * np.float32(FLOW_STEP)


def _as(dtype: type) -> Callable[[bytes, np.ndarray], np.ndarray]:
    return lambda data, like: np.frombuffer(data, dtype).reshape(like.shape)


def _png_encode(image: np.ndarray) -> bytes:
    """Encodes a stack of planes as one tall image, so that a sequence is one PNG."""
    return cv2.imencode(".png", image.reshape(-1, image.shape[2]))[1].tobytes()


def _png_decode(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def _planes(array: np.ndarray) -> np.ndarray:
    """Channels before pixels, which is what image coders predict well."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


FLOW_ENCODINGS = (
    Encoding("float32", lambda x: x.tobytes(), _as(np.float32)),
    Encoding("float16", lambda x: x.astype(np.float16).tobytes(), _as(np.float16)),
    Encoding("float16 of 1/64 px *", lambda x: encode_flow(x).tobytes(), _as(np.float16)),
    Encoding(
        "float16 of 1/64 px, zlib",
        lambda x: compress(encode_flow(x).tobytes()),
        lambda data, like: _as(np.float16)(decompress(data), like),
    ),
    Encoding(
        "uint16 of 1/64 px",
        lambda x: _steps(x).tobytes(),
        lambda data, like: _from_steps(_as(np.uint16)(data, like)),
    ),
    Encoding(
        "uint16 of 1/64 px, PNG",
        lambda x: _png_encode(_planes(_steps(x)).reshape(-1, *x.shape[1:3])),
        lambda data, like: np.moveaxis(
            _from_steps(_png_decode(data)).reshape(len(like), 2, *like.shape[1:3]), 1, -1
        ),
    ),
)
MASK_ENCODINGS = (
    Encoding("bytes *", lambda x: x.tobytes(), _as(np.uint8)),
    Encoding(
        "zlib",
        lambda x: compress(x.tobytes()),
        lambda data, like: _as(np.uint8)(decompress(data), like),
    ),
    Encoding(
        "PNG",
        lambda x: _png_encode(_planes(x).reshape(-1, *x.shape[1:3])),
        lambda data, like: np.moveaxis(
            _png_decode(data).reshape(len(like), -1, *like.shape[1:3]), 1, -1
        ),
    ),
    Encoding(
        "packed bits",
        lambda x: np.packbits(x).tobytes(),
        lambda data, like: np.unpackbits(np.frombuffer(data, np.uint8), count=like.size).reshape(
            like.shape
        ),
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `encodings`."""
    parser.add_argument("--sequences", type=int, default=8, help="clips to render and store")


def main(options: argparse.Namespace) -> None:
    """Prints tables for flow, masks and frames."""
    cv2.setNumThreads(1)
    scene = SceneConfig()
    config = OclrSynConfig(name="benchmark", scene=scene)
    estimator = DIS(scene.render_height, scene.render_width)
    exact, estimated, masks, frames = [], [], [], []
    for index in range(options.sequences):
        rng = np.random.default_rng([0, 0, index])
        sample = render_seen(rng, scene, config.kind(index))
        flow = gap_flows(sample["video"], (1, -1), estimator)
        exact.append(sample["forward_flow"])
        estimated.append(resize_flow(flow, scene.height, scene.width)[..., :2])
        masks.append(sample["amodal"])
        frames.append(sample["video"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sequences.array_record"
        for what, arrays in (("exact flow", exact), ("estimated flow", estimated)):
            _print_table(f"{what}, one direction", arrays, FLOW_ENCODINGS, path)
        _print_table("amodal masks", masks, MASK_ENCODINGS, path)
    _print_frames(frames)


def _print_table(what: str, arrays: list, encodings: tuple[Encoding, ...], path: Path) -> None:
    print(f"\n| {what} | MB a sequence | ms to read one | largest error |\n|---|---|---|---|")
    for each in encodings:
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for array in arrays:
            writer.write(each.encode(array))
        writer.close()
        size = path.stat().st_size / len(arrays) / 1e6
        source = ArrayRecordDataSource(str(path))
        start, decoded = time.process_time(), []
        for index, array in enumerate(arrays):
            decoded.append(each.decode(source[index], array))
        milliseconds = 1e3 * (time.process_time() - start) / len(arrays)
        source.__exit__(None, None, None)
        error = max(
            np.abs(ours.astype(np.float32) - array).max()
            for ours, array in zip(decoded, arrays, strict=True)
        )
        print(f"| {each.name} | {size:.2f} | {milliseconds:.1f} | {error:.4f} |")


def _print_frames(clips: list[UInt8[np.ndarray, "t h w 3"]]) -> None:
    print("\n| frames | MB a sequence | ms to decode one | mean error |\n|---|---|---|---|")
    jpeg = Encoding("JPEG 95 *", encode_jpeg, None)
    png = Encoding("PNG", lambda x: cv2.imencode(".png", x[..., ::-1])[1].tobytes(), None)
    for each in (jpeg, png):
        data = [[each.encode(frame) for frame in clip] for clip in clips]
        size = sum(len(frame) for clip in data for frame in clip) / len(clips) / 1e6
        start = time.process_time()
        decoded = [
            [cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR) for frame in clip]
            for clip in data
        ]
        milliseconds = 1e3 * (time.process_time() - start) / len(clips)
        error = np.mean(
            [
                np.abs(frame[..., ::-1].astype(int) - true).mean()
                for clip, whole in zip(decoded, clips, strict=True)
                for frame, true in zip(clip, whole, strict=True)
            ]
        )
        print(f"| {each.name} | {size:.2f} | {milliseconds:.1f} | {error:.2f} |")
