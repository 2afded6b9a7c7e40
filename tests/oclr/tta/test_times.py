"""Times by part: nested parts, streams, the sentence that is printed."""

import pytest

from oclr_jax.oclr.tta import times
from oclr_jax.oclr.tta.times import PartTimes


def test_nested_parts_count_once(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 10.0, 20.0, 22.0])
    monkeypatch.setattr(times.time, "perf_counter", lambda: next(clock))
    parts = PartTimes()
    with parts.part("outer"), parts.part("inner"):
        pass
    with parts.part("outer"):
        pass
    assert parts.seconds == {"inner": 3.0, "outer": 9.0}
    assert parts.sentence("x", 4) == "x: 3.00 s per frame (inner 0.75, outer 2.25)."


def test_streams_pass_everything_on():
    parts = PartTimes()

    def items():
        yield from (1, 2)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        for item in parts.stream("numbers", items()):
            assert item in (1, 2)
    assert list(parts.stream("numbers", [3, 4])) == [3, 4]
    assert parts.seconds.keys() == {"numbers"}
