import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from oclr_jax.errors import UserError
from oclr_jax.flow import read_flo, write_flo

FLOWS = arrays(
    np.float32,
    st.tuples(st.integers(1, 7), st.integers(1, 9), st.just(2)),
    elements=st.floats(width=32),
)


@settings(max_examples=40, deadline=None)
@given(flow=FLOWS)
def test_round_trip(tmp_path_factory, flow):
    path = tmp_path_factory.mktemp("flo") / "sub folder" / "ü.flo"
    write_flo(path, flow)
    found, known = read_flo(path)
    expected = np.isfinite(flow).all(axis=-1) & (np.abs(flow) <= 1e9).all(axis=-1)
    np.testing.assert_array_equal(known, expected)
    np.testing.assert_array_equal(found[known], flow[known])
    assert (found[~known] == np.float32(1e10)).all()
    assert [file.name for file in path.parent.iterdir()] == ["ü.flo"]


def test_the_bytes_are_those_of_the_format(tmp_path):
    flow = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    write_flo(tmp_path / "a.flo", flow)
    expected = b"PIEH" + struct.pack("<ii", 3, 2) + struct.pack("<12f", *range(12))
    assert (tmp_path / "a.flo").read_bytes() == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e10, -2e9, 1.7e38])
@pytest.mark.parametrize("component", [0, 1])
def test_unknown_vectors_are_a_mask(tmp_path, value, component):
    """Middlebury's 'unknown' is above 1e9; other tools write NaN or infinity."""
    flow = np.ones((2, 3, 2), np.float32)
    flow[1, 2, component] = value
    (tmp_path / "a.flo").write_bytes(HEADER + flow.tobytes())
    found, known = read_flo(tmp_path / "a.flo")
    assert known.tolist() == [[True, True, True], [True, True, False]]
    np.testing.assert_array_equal(found, flow)


HEADER = b"PIEH" + struct.pack("<ii", 3, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PIEH",
        b"HEIP" + HEADER[4:] + bytes(48),
        HEADER + bytes(47),
        HEADER + bytes(49),
        b"PIEH" + struct.pack("<ii", -3, -2) + bytes(48),
        b"PIEH" + struct.pack("<ii", 2**31 - 1, 2**31 - 1),
    ],
    ids=["empty", "cut header", "magic", "short", "long", "negative", "huge"],
)
def test_bad_files_are_refused(tmp_path, content):
    path = tmp_path / "bad.flo"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.flo"):
        read_flo(path)


def test_missing_files_and_places_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(UserError, match="check the path"):
        read_flo(tmp_path / "no.flo")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        write_flo(tmp_path / "file" / "a.flo", np.zeros((2, 2, 2), np.float32))
