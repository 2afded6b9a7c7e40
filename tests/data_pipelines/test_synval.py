"""Import of the published data, from a miniature in its layout."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.builders.synval import import_synval
from data_pipelines.loaders.clips import make_clip_loader
from oclr_jax.errors import UserError
from oclr_jax.flow.flo import write_flo
from oclr_jax.video.png import write_png

T, H, W = 4, 32, 48


@pytest.fixture
def published(tmp_path):
    """Two sequences, of one and of two objects, in the published layout."""
    rng = np.random.default_rng(0)
    root = tmp_path / "published"
    for name, layers in (("1_a", 1), ("2_b", 2)):
        for t in range(T):
            stem = f"{t:05d}"
            frame = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
            write_png(root / "JPEGImages" / name / f"{stem}.png", frame)
            for layer in range(layers):
                mask = np.zeros((H, W), np.uint8)
                # Layer 1 is to the right of layer 0, overlaps it, and is in front.
                mask[8:24, 8 + 8 * layer : 24 + 8 * layer] = 255
                write_png(root / "AmodalAnnotations" / name / f"{layer}_{stem}.png", mask)
            for gap in (1, -1):
                if 0 <= t + gap < T:
                    flow = np.full((H, W, 2), [gap * 2.0, gap * 1.0], np.float32)
                    write_flo(root / f"Flows_gap{gap}" / name / f"{stem}.flo", flow)
    return root


def test_examples_have_the_same_features_as_rendered_ones(published, tmp_path, tiny_directory):
    directory, made = import_synval(published, tmp_path, "published_val", "validation", quiet=True)
    assert made
    ours = tfds.builder_from_directory(tiny_directory).as_data_source("train")[0]
    one, two = tfds.builder_from_directory(directory).as_data_source("validation")
    assert one.keys() == ours.keys() and one["video"].keys() == ours["video"].keys()
    assert one["metadata"]["video_name"] == b"1_a"
    assert two["layer_order"].tolist() == [0, 1, -1]
    # 48 columns become 224, 32 rows become 128: the front layer is the last one there.
    front = two["amodal_segmentations"][0, ..., 0]
    np.testing.assert_array_equal(np.flatnonzero(front.any(0))[[0, -1]], [75, 148])
    np.testing.assert_array_equal(np.flatnonzero(front.any(1))[[0, -1]], [32, 95])
    seen = two["video"]["segmentations"][0, ..., 0]
    assert seen[60, 100] == 1 and seen[60, 50] == 2 and seen[0, 0] == 0
    assert two["visibility"][0, 0] == 1
    assert two["visibility"][0, 1] == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(two["estimated_forward_flow"][0, 0, 0], [2 * 224 / 48, 4], atol=0.01)
    # At the ends the other direction, negated.
    np.testing.assert_array_equal(
        two["estimated_forward_flow"][-1], -two["estimated_backward_flow"][-1]
    )


def test_imported_data_load_without_exact_flow(published, tmp_path):
    directory, _ = import_synval(published, tmp_path, "published_train", "train", quiet=True)
    options = {"frames": 3, "batch_size": 2, "height": 32, "width": 56, "train": True}
    batch = make_clip_loader(directory, "train", **options)[0]
    assert np.isfinite(batch["flow"]).all()
    assert batch["flow"].shape == (2, 3, 32, 56, 4)
    with pytest.raises(UserError, match="no exact flow"):
        make_clip_loader(directory, "train", flow="exact", **options)


def test_inconsistent_data_are_rejected(published, tmp_path):
    with pytest.raises(UserError, match="no folder.*JPEGImages"):
        import_synval(tmp_path / "none", tmp_path, "published_val", "validation")
    (published / "JPEGImages" / "2_b").rename(published / "JPEGImages" / "3_b")
    (published / "AmodalAnnotations" / "2_b").rename(published / "AmodalAnnotations" / "3_b")
    for gap in ("1", "-1"):
        (published / f"Flows_gap{gap}" / "2_b").rename(published / f"Flows_gap{gap}" / "3_b")
    with pytest.raises(UserError, match="masks of 2 layers, but its name says 3"):
        import_synval(published, tmp_path, "published_val", "validation", quiet=True)
    assert not (tmp_path / "oclr_syn" / "published_val" / "2.0.0").exists()
