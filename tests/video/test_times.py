"""Time stamps of frames: missing, rounded, wrong, restarted."""

from fractions import Fraction

import pytest

from oclr_jax.video.times import frame_times

MS = Fraction(1, 1000)


def times(milliseconds, rate=24):
    stamps = [None if stamp is None else stamp * MS for stamp in milliseconds]
    found, fps = frame_times(stamps, Fraction(rate), MS)
    return [float(1000 * time) for time in found], fps


def test_the_rate_is_that_of_the_stamps():
    found, fps = times([5, 34, 75, 105], rate=1000)
    assert found == [0, 29, 70, 100]
    assert fps == 30


def test_stamps_that_are_rounded_give_the_exact_rate():
    rate = Fraction(24000, 1001)
    found, fps = frame_times([round(1000 * i / rate) * MS for i in range(2000)], rate, MS)
    assert fps == rate and found[1999] == 1999 / rate


def test_a_dropped_frame_leaves_a_gap_where_one_tick_is_one_frame():
    found, fps = frame_times([Fraction(i, 24) for i in (0, 1, 3, 4)], Fraction(24), Fraction(1, 24))
    assert found == [Fraction(i, 24) for i in (0, 1, 3, 4)]
    assert fps == 18


@pytest.mark.parametrize("stamps", [[None] * 4, [0, 40, None, 120], [7] * 4, [3]])
def test_without_stamps_the_header_decides(stamps):
    found, fps = times(stamps, rate=25)
    assert fps == 25
    assert found == [40 * index for index in range(len(stamps))]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 40, 40, 100, 140], [0, 40, 70, 100, 140]),
        ([0, 40, 30, 120, 160], [0, 40, 80, 120, 160]),
        ([0, 40, 81, 81], [0, 40, 81, 121]),
        ([0, 40, 80, 10, 200], [0, 40, 80, 140, 200]),
    ],
)
def test_a_wrong_stamp_moves_no_other(stamps, expected):
    found, fps = times(stamps)
    assert found == expected
    assert float(fps) == pytest.approx(1000 * (len(stamps) - 1) / expected[-1])


def test_a_clock_that_starts_again_goes_on():
    found, _ = times([1000 + 41 * i for i in range(30)] + [0, 37, 80])
    assert found[29] == 29 * 41
    assert found[30:] == [30 * 41, 30 * 41 + 37, 30 * 41 + 80]
