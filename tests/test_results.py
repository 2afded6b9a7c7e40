"""The record of results is read back, and leads to its video."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from oclr_jax import pipeline
from oclr_jax.errors import UserError
from oclr_jax.results import SCHEMA_VERSION, decode_rle, encode_rle, find_video, read_record
from tests.clips import motion_segmenter, moving_clip, write_frames


@pytest.fixture
def result(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: motion_segmenter())
    video = write_frames(tmp_path / "both" / "clip", moving_clip(4))
    pipeline.segment_to_folder(video, tmp_path / "both" / "out", overlay=False)
    return tmp_path / "both" / "out"


def test_results_find_their_video_after_both_have_moved(result, tmp_path):
    record = read_record(result)
    assert record["video"]["source"] == "../clip"
    assert find_video(result, record) == tmp_path / "both" / "clip"
    moved = result.parent.rename(tmp_path / "moved")
    assert find_video(moved / "out", record) == moved / "clip"
    (moved / "clip").rename(tmp_path / "away")
    with pytest.raises(UserError, match="no longer there"):
        find_video(moved / "out", record)
    assert find_video(moved / "out", record, tmp_path / "away") == tmp_path / "away"


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "holds no objects.json"),
        ("{", "no whole record"),
        ("[]", "no whole record"),
        (json.dumps({"schema_version": 1, "video": {}, "objects": []}), "version 1"),
        (
            json.dumps({"schema_version": SCHEMA_VERSION, "video": {}, "objects": []}),
            "no whole record",
        ),
    ],
)
def test_what_is_no_record(tmp_path, text, says):
    if text is not None:
        (tmp_path / "objects.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read_record(tmp_path)


@settings(max_examples=60, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)), st.integers(1, 30))
def test_masks_come_back(small, scale):
    mask = np.kron(small, np.ones((scale, scale))).astype(bool)
    code = encode_rle(mask)
    assert np.array_equal(decode_rle(code), mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert np.array_equal(coco.decode(code).astype(bool), mask)


@pytest.mark.parametrize(
    "counts", ["", "5220", "522077", "6", "zz", "ü", "~~~", "P" * 30, "0" * 30]
)
def test_broken_codes_are_refused(counts):
    with pytest.raises(ValueError):
        decode_rle({"size": [4, 5], "counts": counts})
