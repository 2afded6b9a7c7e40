"""Models as programs: they run without the package and compute what the models compute."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from oclr_jax import cli
from oclr_jax.errors import UserError
from oclr_jax.models import corrector, selector
from oclr_jax.models.backbones import encode_images
from oclr_jax.models.dino import normalize_images
from oclr_jax.models.oclr import parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.oclr.predict import load_segmenter
from oclr_jax.programs import export_model
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights
from tests.clips import CONFIG, INFO, moving_clip
from tests.video.videos import write_video

ROOT = Path(__file__).resolve().parents[1]
SELECTOR = selector.SelectorConfig(
    frames=4, exemplars=3, height=32, width=48, channels=(4, 4, 8), layers=1, heads=2,
    feedforward=8, backbone="own", feature_channels=8,
)  # fmt: skip
CORRECTOR = corrector.CorrectorConfig(
    objects=2, backgrounds=1, frames=3, exemplars=2, height=32, width=48, channels=(4, 4, 8),
    layers=1, heads=2, feedforward=8, backbone="own", feature_channels=8,
)  # fmt: skip
# Runs a script in a process in which the package cannot be imported.
WITHOUT_PACKAGE = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("oclr_jax", "data_pipelines", "flax"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def random_params(shapes) -> dict:
    rng = np.random.default_rng(0)
    return unflatten({n: 0.3 * rng.standard_normal(s, np.float32) for n, s in shapes.items()})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, random_params(parameter_shapes(CONFIG)), INFO, dtype="float32")
    return path


@pytest.fixture(scope="module")
def flow_program(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "tiny.zip"
    export_model(path, weights=weights)
    return path


def load(path):
    with zipfile.ZipFile(path) as archive:
        program = export.deserialize(bytearray(archive.read("program.bin")))
        return program, json.loads(archive.read("program.json"))


def test_the_flow_program_computes_what_the_model_does(weights, flow_program):
    program, about = load(flow_program)
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert about["gaps"] == [1, -1] and about["flow"]["estimator"] == "dis"
    assert about["inputs"][0]["shape"] == ["b", 6, 32, 48, 4]
    flow = np.random.default_rng(1).normal(size=(2, 6, 32, 48, 4)).astype(np.float32)
    segmenter = load_segmenter(weights, "float32")
    for expected, found, array in zip(
        segmenter.predict(segmenter.params, flow), program.call(flow), about["outputs"], strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.dtype == array["dtype"] and [2, *array["shape"][1:]] == list(found.shape)
    assert float(np.std(program.call(flow)[0])) > 0.01


def test_the_example_runs_without_the_package(flow_program, tmp_path):
    script = ROOT / "launch" / "run_program.py"
    code = script.read_text().split('"""', 2)[2]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 32
    video = write_video(tmp_path / "clip.mp4", moving_clip(8))
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE, script, flow_program, video]
    found = subprocess.run([*command, tmp_path / "out.npz"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["amodal"].shape == (8, 32, 48, 3) and arrays["amodal"].dtype == bool
        assert arrays["order"].shape == (2, 3)
        assert 0 < arrays["amodal"].mean() < 1


@pytest.fixture(scope="module")
def refine_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refine")
    for kind, module, config in (
        ("selector", selector, SELECTOR),
        ("corrector", corrector, CORRECTOR),
    ):
        info = WeightsInfo(config, f"tiny-{kind}")
        params = random_params(module.parameter_shapes(config))
        save_weights(folder / f"{kind}.safetensors", params, info, dtype="float32")
    return folder


def random_inputs(about) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for array in about["inputs"]:
        top = 256 if "frames" in array["name"] else 2
        found[array["name"]] = rng.integers(0, top, array["shape"]).astype(array["dtype"])
    return found


def features(config, params, frames):
    encode = jax.jit(lambda params, images: encode_images(config, params, None, images))
    return encode(params, images(frames))


def images(frames):
    return normalize_images(jnp.asarray(frames, jnp.float32) / 255)


@pytest.mark.slow
def test_the_selector_program(refine_weights, tmp_path):
    export_model(tmp_path / "s.zip", "selector", refine_weights=refine_weights, platforms=["cpu"])
    program, about = load(tmp_path / "s.zip")
    given = random_inputs(about) | {"length": np.int32(3)}
    quality, error_map = program.call(*given.values())
    params, _ = load_weights(refine_weights / "selector.safetensors", "selector")
    expected = jax.jit(selector.Selector(SELECTOR).apply)(
        {"params": params},
        images(given["frames"])[None],
        given["masks"][None, ..., None].astype(np.float32),
        features(SELECTOR, params, given["frames"])[None],
        np.array([3]),
    )
    np.testing.assert_allclose(quality[:3], expected.quality[0, :3, 0], rtol=1e-4)
    np.testing.assert_allclose(np.sum(error_map, -1), 1, atol=1e-5)


@pytest.mark.slow
def test_the_corrector_program(refine_weights, tmp_path):
    export_model(tmp_path / "c.zip", "corrector", refine_weights=refine_weights, platforms=["cpu"])
    program, about = load(tmp_path / "c.zip")
    given = random_inputs(about)
    given["numbers"] = np.arange(3, dtype=np.int32)
    given["exemplar_numbers"] = np.full((2, 2), 9, np.int32)
    (found,) = program.call(*given.values())
    params, _ = load_weights(refine_weights / "corrector.safetensors", "corrector")
    shown = features(CORRECTOR, params, given["exemplar_frames"].reshape(4, 32, 48, 3))
    output = jax.jit(corrector.Corrector(CORRECTOR).apply)(
        {"params": params},
        images(given["frames"])[None],
        given["masks"][None].astype(np.float32),
        features(CORRECTOR, params, given["frames"])[None],
        corrector.Exemplars(
            shown.reshape(1, 2, 2, *shown.shape[1:]),
            given["exemplar_masks"][None].astype(np.float32),
            given["exemplar_scores"][None],
            given["exemplar_numbers"][None],
            given["exemplar_valid"][None],
        ),
        given["numbers"][None],
    )
    np.testing.assert_allclose(found, jax.nn.sigmoid(output.mask_logits)[0], atol=1e-5)


def test_the_command(weights, tmp_path, capsys):
    command = ["export-model", str(tmp_path / "p.zip"), "--weights", str(weights)]
    assert cli.main([*command, "--platforms", "cpu", "--precision", "bfloat16"]) == 0
    text = capsys.readouterr().out
    assert "input flow: float32 [b 6 32 48 4]" in text and "output order: float32 [b 3]" in text
    assert load(tmp_path / "p.zip")[1]["precision"] == "bfloat16"


def test_what_is_no_program_is_refused(weights, tmp_path):
    for options, text in (
        ({"program": "painter"}, "no program 'painter'"),
        ({"platforms": ["cpu", "abacus"]}, "Platforms are"),
        ({"precision": "float8"}, "no precision"),
        ({"program": "selector", "weights": weights}, "from --refine-weights"),
        ({"refine_weights": tmp_path}, "from --weights"),
        ({"program": "selector", "refine_weights": tmp_path}, "0 files"),
        ({"weights": tmp_path / "none.safetensors"}, "none"),
    ):
        with pytest.raises(UserError, match=text):
            export_model(tmp_path / "p.zip", **options)
    assert not list(tmp_path.iterdir())
