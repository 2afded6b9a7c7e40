"""The natural order of names, and the files that nobody put there."""

import random
import warnings
from pathlib import Path

import pytest

from oclr_jax.errors import InputWarning
from oclr_jax.video.names import is_junk, natural_sorted


def in_order(names: list[str]) -> list[str]:
    shuffled = random.Random(0).sample(names, len(names))
    return [path.name for path in natural_sorted(Path(name) for name in shuffled)]


@pytest.mark.parametrize(
    "names",
    [
        ["2.png", "10.png", "100.png"],
        ["shot 2 a.png", "shot 2 b.png", "shot 10 a.png"],
        ["a.png", "a1.png", "b.png"],
        ["1.png", "a.png"],
        ["007.png", "7.png", "8.png"],
        ["2024-01-02.png", "2024-01-10.png", "2024-11-01.png"],
        ["clip1.0001.png", "clip1.0002.png", "clip1.0010.png"],
        ["1.2.9.png", "1.2.10.png"],
        ["٢.png", "١٠.png"],
        ["第二.png", "第五.png"],
        ["९ a.png", "10 a.png", "११ a.png"],
        ["1².png", "2².png"],
    ],
)
def test_numbers_sort_by_value_without_a_word(names):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_order(names) == names


@pytest.mark.parametrize(
    "names",
    [
        ["1700000000.25.png", "1700000000.5.png", "1700000001.125.png"],
        ["t0.125.jpg", "t0.25.jpg", "t0.5.jpg", "t1.jpg"],
        ["-10.jpg", "-5.jpg", "0.jpg", "5.jpg"],
        ["z_-1.5.png", "z_-1.25.png", "z_0.5.png", "z_10.png"],
        ["٠.٢٥.png", "٠.٥.png"],
    ],
)
def test_decimal_and_negative_numbers_sort_by_value_and_a_line_says_so(names):
    with pytest.warns(InputWarning, match="decimal or negative.*from") as caught:
        assert in_order(names) == names
    text = str(caught[0].message)
    assert names[0] in text and names[-1] in text and "\n" not in text


@pytest.mark.parametrize("names", [["v1.8", "v1.9", "v1.10"], ["1.1", "1.2", "1.10", "1.11"]])
def test_points_that_separate_whole_numbers(names):
    names = [f"{name}.png" for name in names]
    with pytest.warns(InputWarning, match="whole numbers"):
        assert in_order(names) == names


def test_the_same_files_in_any_order_of_the_folder_give_the_same_order():
    names = ["1.png", "01.png", "1.jpg", "A.png", "a.png"]
    assert in_order(names) == in_order(names[::-1])


@pytest.mark.parametrize(
    "name",
    ["._00001.flo", ".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini", "__MACOSX"],
)
def test_junk(name):
    assert is_junk(name)
    assert not is_junk(f"a{name}")
