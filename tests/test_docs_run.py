"""Commands and examples of the documentation run, on small stand-ins for the files they name."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.corrections.file import SCHEMA_VERSION, Corrections
from oclr_jax.corrections.operations import Scene, parse_operation
from oclr_jax.models.oclr import OCLRConfig, parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.oclr import predict
from oclr_jax.results import read_record
from oclr_jax.torch_import.names_oclr import oclr_entries
from oclr_jax.video.png import write_ids
from oclr_jax.weights.file import save_weights
from tests.clips import CONFIG, INFO, motion_segmenter, moving_clip, square_masks, write_frames
from tests.datasets.miniatures import MINIATURES, mask
from tests.documentation import PAGES, ROOT, commands, fenced_blocks
from tests.torch_import.torch_writer import save_state_zip
from tests.video.videos import encode, write_video

# What is not run here, and why. The patterns are searched for in the command.
NOT_RUN = {
    r"^pip install": "tests/test_package.py installs the package",
    r"^bash launch/(demo|test|browser_tests)\.sh": "creates an environment, or runs the tests",
    r"^bash launch/cluster/": "needs several machines; tests/launch/test_clusters.py",
    r"multi_processing|DataflowRunner": "many processes or a cloud; test_segment_beam.py",
    r"^python launch/benchmark\.py": "measures for minutes, on an idle machine",
    r"^python launch/checks/": "kills commands for minutes; tests/launch/test_kill_commands.py",
    r"^python launch/(generate|train)\.py (?!.*tiny)": "takes hours; tests/launch, tests/train",
    r"^python launch/(reports/(?!gallery)|predict_masks|import_|build_benchmark)": (
        "needs large data; tests/launch and tests/data_pipelines have small ones"
    ),
    r"--data data/": "needs generated data; tests/evaluate",
    r"^oclr adapt": "trains for an hour; tests/adapt",
    r"^oclr propagate|--refine \S*(tta|sam)": "needs the weights of others",
    r"--flow raft|--weights (oclr-released|WEIGHTS|workdirs)|ckpt_davis": "needs trained weights",
    r"--weights IN\.pth": "needs weights of RAFT, with which released models were trained",
    r"--refine-weights (REFINE|adapted)": "tests/refine and tests/test_programs.py have some",
    r"^oclr (serve|view)": "runs until it is stopped; tests/web",
    r"^ffmpeg|/dev/video0": "needs ffmpeg or a camera; tests/test_online.py has the same streams",
}
NO_PAGES = {"docs/reproduce.md": "needs all benchmarks, released weights, and days of training"}
# What only `-m slow` runs, and why.
SLOW = {
    r"export-model|run_program": "compiles the model of the package",
    r"launch/(generate|train)\.py .*tiny": "processes that render, and that train",
    r"gallery\.py": "segments scenes of full size with the model of the package",
    r"segment_beam": "a pipeline with the model of the package",
}
NO_PYTHON = {r"beam_runner": "renders a data set of full size"}
# Which arguments of a command are its output, besides --output.
WRITES = {"segment": [1], "flow": [1], "refine": [2], "convert": [1], "export-model": [0]}
RELEASED = OCLRConfig(
    queries=2, channels=(4, 4, 6, 6, 8), heads=4, feedforward=10, encoder_layers=2, decoder_layers=1
)


def matching(patterns: dict[str, str], text: str) -> list[str]:
    return [pattern for pattern in patterns if re.search(pattern, text)]


def commands_to_run(page: Path, slow: bool) -> list[list[str]]:
    """The commands of a page that can be run: the slow ones, or all others."""
    if str(page.relative_to(ROOT)) in NO_PAGES:
        return []
    possible = [words for words in commands(page) if not matching(NOT_RUN, " ".join(words))]
    return [words for words in possible if bool(matching(SLOW, " ".join(words))) == slow]


def examples(page: Path) -> list[str]:
    return [code for code in fenced_blocks(page, "python") if not matching(NO_PYTHON, code)]


def pages_where(condition) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if condition(page)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture(scope="module")
def small_model():
    """A model without compilation in place of the shipped weights; other weights are opened."""
    load = predict._LOADERS["oclr"]

    def load_small(weights, precision, passes):
        if weights is not None:
            return load(weights, precision, passes)
        return dataclasses.replace(motion_segmenter(), passes=passes or 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(predict._LOADERS, "oclr", load_small)
        yield


def write_weights(path: Path) -> None:
    """Weights of a tiny model that knows nothing."""
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(CONFIG)
    params = {name: 0.1 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    path.parent.mkdir(exist_ok=True)
    save_weights(path, unflatten(params), INFO, dtype="float32")


def write_checkpoint(path: Path) -> None:
    """A checkpoint in the layout of the released ones, of a small model."""
    shapes, rng = parameter_shapes(RELEASED), np.random.default_rng(0)
    entries = oclr_entries(RELEASED).items()
    state = {name: rng.standard_normal(e.torch_shape(shapes), np.float32) for name, e in entries}
    save_state_zip(path, state)


def write_inputs() -> None:
    """Videos, data sets and weights, under the names that the documentation gives them."""
    video = moving_clip(6)
    for name in ("clip.mp4", "clip1.mp4", "moved/clip.mp4", *(f"videos/{n}.mp4" for n in "abc")):
        Path(name).parent.mkdir(exist_ok=True)
        write_video(Path(name), video)
    encode(Path("stream.mkv"), video)
    write_frames(Path("frames"), video)
    write_weights(Path("my.safetensors"))
    write_weights(Path("adapted/weights.safetensors"))
    write_checkpoint(Path("IN.pth"))
    MINIATURES["davis2016"](Path("DAVIS"))
    (sequence,) = Path("DAVIS/JPEGImages/480p").iterdir()
    for folder, masks in (
        (Path("MASKS", sequence.name), [mask(number) for number in range(8)]),
        (Path("MY_DATA/Annotations/first"), square_masks(6)),
    ):
        folder.mkdir(parents=True)
        for number, ids in enumerate(masks):
            write_ids(folder / f"{number:05d}.png", ids)
    write_frames(Path("MY_DATA/JPEGImages/first"), video)
    for annotation in Path("MY_DATA/Annotations/first").iterdir():
        annotation.rename(annotation.with_name(f"{int(annotation.stem)}.png"))
    for name in ("launch", "configs"):
        Path(name).symlink_to(ROOT / name)


def write_results() -> None:
    """What commands that the documentation takes for granted have written."""
    done = ["flow clip.mp4 flows", "segment clip.mp4 result --refine none"]
    done += [f"segment videos/{name}.mp4 {name} --refine none --no-overlay" for name in "abc"]
    done += ["evaluate --dataset davis2016 --data DAVIS --output results/none --refine none"]
    for command in done:
        assert cli.main(command.split()) == 0
    for name in ("self", "crf"):
        shutil.copytree("results/none", f"results/{name}")
    Corrections("result", read_record("result")).add({"kind": "drop", "id": 2})


@pytest.fixture(scope="module")
def written(tmp_path_factory, small_model) -> Path:
    """A folder with everything that the documentation names."""
    folder = tmp_path_factory.mktemp("documentation") / "place"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inputs()
        write_results()
    return folder


@pytest.fixture
def place(written, tmp_path, monkeypatch) -> Path:
    """The working folder: a copy of `written`."""
    shutil.copytree(written, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@contextmanager
def standard_input(path: str) -> Iterator[None]:
    kept, file = os.dup(0), os.open(path, os.O_RDONLY)
    os.dup2(file, 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(file)


def clear_output(words: list[str]) -> list[Path]:
    """Removes what an earlier command has left where this one writes; returns the places."""
    command, arguments = words[1], words[2:]
    paths = [Path(arguments[place]) for place in WRITES.get(command, ())]
    if "--output" in arguments:
        paths.append(Path(arguments[arguments.index("--output") + 1]))
    elif command in ("export", "apply"):
        paths.append(Path(arguments[0], "exports" if command == "export" else "corrected"))
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
    return paths


def run(words: list[str], place: Path) -> None:
    """Runs a command as it is written; it must succeed and write what it names."""
    program, *arguments = words
    if program == "oclr":
        outputs = clear_output(words)
        with standard_input("stream.mkv"):
            assert cli.main(arguments) == 0, words
        assert all(path.exists() for path in outputs), f"{words} did not write {outputs}"
        return
    assert program == "python", f"{program}: run it, or say in NOT_RUN why not"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"


@pages_where(lambda page: commands_to_run(page, slow=False))
def test_commands(page: Path, place: Path):
    for words in commands_to_run(page, slow=False):
        run(words, place)


@pytest.mark.slow
@pages_where(lambda page: commands_to_run(page, slow=True))
def test_slow_commands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_inputs()
    for words in commands_to_run(page, slow=True):
        if "segment_beam" in " ".join(words) and not importlib.util.find_spec("apache_beam"):
            pytest.skip("needs the extra `beam`")
        run(words, tmp_path)


@pages_where(examples)
def test_python(page: Path, place: Path):
    for code in examples(page):
        exec(compile(code, str(page), "exec"), {"__name__": "example"})


def test_the_corrections_in_the_documentation():
    (text,) = fenced_blocks(ROOT / "docs" / "web.md", "json")
    content = json.loads(text)
    assert content["schema_version"] == SCHEMA_VERSION and content["undone"] == []
    spans = dict.fromkeys((1, 2, 3, 4), (0, 59))
    scene = Scene(frames=60, order=tuple(spans), spans=spans, foreground=(), last_id=4)
    for value in content["operations"]:
        scene = parse_operation(value, scene).after(scene)
    assert scene.order == (5, 1, 3) and scene.foreground == (1, 5)


def test_every_reason_has_a_command():
    texts = [" ".join(words) for page in PAGES for words in commands(page)]
    code = [block for page in PAGES for block in fenced_blocks(page, "python")]
    for patterns, where in ((NOT_RUN, texts), (SLOW, texts), (NO_PYTHON, code)):
        for pattern, reason in patterns.items():
            assert any(re.search(pattern, text) for text in where), f"{pattern}: {reason}"
    assert all((ROOT / page).is_file() for page in NO_PAGES)
