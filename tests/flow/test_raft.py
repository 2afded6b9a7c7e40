"""RAFT as an estimator: published numbers end to end, sizes, sharing, chunks."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.flow import from_settings, gap_flows
from oclr_jax.flow import raft as raft_module
from oclr_jax.flow.raft import RAFTFlow, open_raft
from oclr_jax.models.raft import RAFTConfig
from oclr_jax.torch_import.names_raft import import_raft
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "raft_small.npz"
ITERATIONS = 4  # of the golden numbers


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return {key: np.moveaxis(array, 1, -1) if array.ndim == 4 else array
                for key, array in file.items()}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    with np.load(GOLDEN) as file:
        state = {key[2:]: file[key] for key in file.files if key.startswith("w/")}
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, import_raft(state)[0], WeightsInfo(RAFTConfig(True), "small"))
    return path


@pytest.fixture(scope="module")
def raft(weights) -> RAFTFlow:
    return RAFTFlow(weights, iterations=ITERATIONS)


def test_the_published_flow(raft, golden):
    flow = raft(golden["in_image1"], golden["in_image2"])
    np.testing.assert_allclose(flow, golden["out_flow_up"], atol=1e-3)


def test_any_size_comes_back_and_shares_a_compiled_program(raft, golden):
    first, second = golden["in_image1"][:, :123, :158], golden["in_image2"][:, :123, :158]
    raft(golden["in_image1"], golden["in_image2"])
    refine = raft_module.make_programs(RAFTConfig(True), ITERATIONS, False).refine
    compiled = refine._cache_size()
    flow = raft(first, second)
    assert refine._cache_size() == compiled
    assert flow.shape == (1, 123, 158, 2)
    # The border's values in the padding change little of what is far from it.
    error = np.linalg.norm(flow - golden["out_flow_up"][:, :123, :158], axis=-1)[:, :80, :100]
    assert np.median(error) < 0.1 * np.median(np.linalg.norm(flow, axis=-1))


def test_frames_with_many_rows_are_shrunk(weights):
    assert RAFTFlow(weights).working_size(480, 854) == (480, 854)
    assert RAFTFlow(weights).working_size(1080, 1920) == (480, 853)
    assert RAFTFlow(weights, rows=None).working_size(1080, 1920) == (1080, 1920)


def test_each_frame_is_looked_at_once(raft, golden, monkeypatch):
    calls = {"features": 0, "context": 0, "refine": 0}
    programs = raft_module.make_programs(RAFTConfig(True), ITERATIONS, False)

    def counted(name):
        def call(*arguments):
            calls[name] += 1
            return getattr(programs, name)(*arguments)

        return call

    counting = raft_module.Programs(*(counted(name) for name in calls))
    monkeypatch.setattr(raft_module, "make_programs", lambda *_: counting)
    frames = np.concatenate(
        [golden["in_image1"], golden["in_image2"], golden["in_image1"][:, ::-1]]
    )
    flow = gap_flows(frames, (1, -1), raft)
    assert calls == {"features": 3, "context": 3, "refine": 4}
    np.testing.assert_allclose(flow[0, ..., :2], golden["out_flow_up"][0], atol=1e-3)


def test_chunks_change_nothing(raft, golden, monkeypatch):
    first = np.concatenate([golden["in_image1"], golden["in_image2"], golden["in_image1"]])
    second = np.concatenate([golden["in_image2"], golden["in_image1"], golden["in_image1"]])
    alone = raft(first, second)
    monkeypatch.setattr(raft_module, "CPU_CHUNK", 2)
    np.testing.assert_allclose(raft(first, second), alone, atol=1e-3)


def test_correlation_on_demand_for_large_frames(raft, golden, monkeypatch):
    monkeypatch.setattr(raft_module, "MAX_CORRELATION_BYTES", 0)
    made = []
    programs = raft_module.make_programs
    monkeypatch.setattr(raft_module, "make_programs", lambda *a: made.append(a) or programs(*a))
    flow = raft(golden["in_image1"], golden["in_image2"])
    assert made[0][2] is True
    np.testing.assert_allclose(flow, golden["out_flow_up"], atol=1e-3)


def test_it_can_be_sent_to_another_process_and_described(raft, weights, monkeypatch, tmp_path):
    assert pickle.loads(pickle.dumps(raft)) == raft
    settings = raft.settings()
    assert settings == {
        "estimator": "raft", "weights": "small.safetensors", "iterations": 4, "rows": 480,
        "precision": "float32",
    }  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="no weights small.safetensors"):
        open_raft(**settings)
    folder = tmp_path / "oclr_jax" / "weights"
    folder.mkdir(parents=True)
    (folder / weights.name).write_bytes(weights.read_bytes())
    assert open_raft(**settings).settings() == settings


def test_what_cannot_work_is_refused(weights, tmp_path):
    with pytest.raises(UserError, match="iteration"):
        open_raft(weights, iterations=0)
    with pytest.raises(UserError, match="do not fit the flow estimator raft"):
        from_settings({"estimator": "raft", "weights": weights, "speed": 3})
    (tmp_path / "a.pth").write_text("nothing")
    with pytest.raises(UserError, match="not a PyTorch checkpoint"):
        open_raft(tmp_path / "a.pth")


def test_a_released_file_is_read_as_it_is(shared_dir):
    path = shared_dir / "reference" / "golden" / "raft_small_dataparallel_legacy.pth"
    assert open_raft(path, "raft-small").weights == path
