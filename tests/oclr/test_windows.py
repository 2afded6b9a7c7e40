"""Windows against the published groups of frames, and their properties."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oclr_jax.oclr.windows import frame_groups, stream_windows

SIZES = st.integers(1, 12).flatmap(
    lambda size: st.tuples(st.just(size), st.integers(0, size - 1), st.integers(0, 60))
)


def test_published_groups(shared_dir):
    groups = json.loads((shared_dir / "reference/golden/frame_groups.json").read_text())
    for name, expected in groups.items():
        count, size = (int(part[1:]) for part in name.split("_"))
        assert frame_groups(count, size) == expected, name


def test_groups_by_hand():
    assert frame_groups(7, 3) == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]
    assert frame_groups(2, 4) == [[0, 1, 1, 1]]
    assert frame_groups(8, 4, overlap=1) == [[0, 1, 2, 3], [3, 4, 5, 6], [4, 5, 6, 7]]
    assert frame_groups(7, 4, overlap=1) == [[0, 1, 2, 3], [3, 4, 5, 6]]
    assert frame_groups(0, 4) == []


@given(SIZES)
def test_windows_cover_every_frame_in_order(sizes):
    size, overlap, count = sizes
    groups = frame_groups(count, size, overlap)
    assert all(len(group) == size for group in groups)
    assert sorted({frame for group in groups for frame in group}) == list(range(count))
    for before, after in zip(groups, groups[1:], strict=False):
        assert before[0] < after[0]
        assert before[-1] - after[0] + 1 >= overlap
        assert after[-1] > before[-1]
    if count >= size:
        assert all(group == list(range(group[0], group[0] + size)) for group in groups)
        assert groups[-1][-1] == count - 1


def test_only_one_window_is_held():
    read = 0

    def items():
        nonlocal read
        for item in range(1, 101):
            read = item
            yield item

    for start, window in stream_windows(items(), 5, overlap=2):
        assert read == start + len(window)


@pytest.mark.parametrize("overlap", [-1, 3, 4])
def test_overlap_must_be_below_the_size(overlap):
    with pytest.raises(ValueError, match="overlap"):
        frame_groups(9, 3, overlap)
