"""Reading every benchmark from a miniature, and from folders with a wrong layout."""

import shutil

import numpy as np
import pytest
from PIL import Image

from oclr_jax.datasets.benchmarks import BENCHMARKS, VOID, YTVOS2018_MOTION_COLOURS
from oclr_jax.datasets.layouts import (
    BenchmarkSequence,
    find_benchmark_sequences,
    read_moca_boxes,
    split_long_sequence,
)
from oclr_jax.datasets.published import PUBLISHED
from oclr_jax.errors import UserError
from oclr_jax.video.png import write_ids, write_png
from tests.datasets.miniatures import MINIATURES, frame, write_frames


def read(name, root):
    return find_benchmark_sequences(BENCHMARKS[name], root)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_miniatures(tmp_path, name):
    MINIATURES[name](tmp_path)
    (sequence,) = read(name, tmp_path)
    assert sequence.name == BENCHMARKS[name].sequences()[0]
    assert len(sequence.stems) == 8
    first = next(iter(sequence.frames()))
    assert first.shape == (48, 64, 3) and abs(first.astype(int) - frame(0)).mean() < 15
    for number in sequence.annotated:
        ids = sequence.annotation(number)
        assert ids.shape == (48, 64) and ids.dtype == np.uint8
        assert ids[10, 10 + number] == 1 and ids[0, 0] == 0


@pytest.mark.parametrize("name", BENCHMARKS)
def test_files_of_the_system_are_ignored(tmp_path, name):
    MINIATURES[name](tmp_path)
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        for junk in (".ipynb_checkpoints", "__MACOSX"):
            (folder / junk).mkdir()
        for suffix in ("jpg", "png", "bmp", "pgm", "ppm", "zip"):
            (folder / f"._00001.{suffix}").write_bytes(b"left by the system")
        for junk in ("Thumbs.db", "desktop.ini", ".DS_Store"):
            (folder / junk).write_bytes(b"left by the system")
    (sequence,) = read(name, tmp_path)
    assert len(sequence.stems) == len(list(sequence.frames())) == 8
    for number in sequence.annotated:
        assert sequence.annotation(number)[10, 10 + number] == 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_zip_files_equal_folders(tmp_path, name):
    MINIATURES[name](tmp_path / "tree" / "DATA")
    (folder,) = read(name, tmp_path / "tree")  # one folder above the tree
    zipped = shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path / "tree")
    (tmp_path / "downloads").mkdir()
    shutil.copy(zipped, tmp_path / "downloads")
    for root in (zipped, tmp_path / "downloads"):
        (inside,) = read(name, root)
        assert inside.stems == folder.stems and inside.annotated == folder.annotated
        for one, other in zip(inside.frames(), folder.frames(), strict=True):
            assert np.array_equal(one, other)
        for number in folder.annotated:
            assert np.array_equal(inside.annotation(number), folder.annotation(number))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_wrong_layout_is_reported_with_the_expected_one(tmp_path, name):
    (tmp_path / "Pictures").mkdir()
    with pytest.raises(UserError) as error:
        read(name, tmp_path)
    said = str(error.value)
    assert BENCHMARKS[name].tree.splitlines()[0] in said and "found Pictures" in said
    with pytest.raises(UserError, match="does not exist"):
        read(name, tmp_path / "nowhere")


def test_numbers_of_sequences_are_those_of_the_papers():
    counts = {name: len(benchmark.sequences()) for name, benchmark in BENCHMARKS.items()}
    assert counts == {
        "davis2016": 20,
        "davis2017_motion": 30,
        "segtrack_v2": 14,
        "fbms59": 30,
        "moca_filter": 88,
        "ytvos2018_motion": 120,
    }
    assert BENCHMARKS["fbms59"].gaps == (1, 3) and BENCHMARKS["ytvos2018_motion"].gaps == (3,)
    assert PUBLISHED.keys() == BENCHMARKS.keys() and all(PUBLISHED.values())


def test_sequences_of_another_split_or_dataset(tmp_path):
    MINIATURES["davis2016"](tmp_path)
    folder = tmp_path / "JPEGImages" / "480p"
    (folder / BENCHMARKS["davis2016"].sequences()[0]).rename(folder / "mine")
    with pytest.raises(UserError, match="none of the 20 sequences"):
        read("davis2016", tmp_path)


def test_segtrack_joins_the_objects_of_a_sequence(tmp_path):
    MINIATURES["segtrack_v2"](tmp_path)
    (sequence,) = read("segtrack_v2", tmp_path)
    ids = sequence.annotation(2)
    assert ids[10, 12] == ids[40, 60] == 1 and ids.max() == 1
    (tmp_path / "GroundTruth" / sequence.name / "2" / "frame_3.png").unlink()
    with pytest.raises(UserError, match="7 annotations for 8 frames"):
        read("segtrack_v2", tmp_path)


def test_fbms_is_annotated_sparsely_in_grey_and_in_colour(tmp_path):
    MINIATURES["fbms59"](tmp_path)
    (sequence,) = read("fbms59", tmp_path)
    assert sequence.annotated == [0, 4]
    # Two labels form one foreground; a faint one is background.
    assert sequence.annotation(4)[40, 60] == 1 and sequence.annotation(4)[40, 5] == 0
    folder = tmp_path / "Testset" / sequence.name / "GroundTruth"
    for path in folder.glob("*.pgm"):
        path.unlink()
    colours = np.full((48, 64, 3), 255, np.uint8)
    colours[8:20, 8:24] = (255, 0, 0)
    for number in (1, 6):
        Image.fromarray(colours).save(folder / f"{sequence.name}_{number:04d}_gt.ppm")
    Image.fromarray(colours).save(folder / f"{sequence.name}_PROB_gt.ppm")
    (sequence,) = read("fbms59", tmp_path)
    assert sequence.annotated == [0, 5]
    ids = sequence.annotation(5)
    assert ids[10, 10] == 1 and ids[0, 0] == 0 and ids.sum() == 12 * 16


def test_fbms_frames_may_be_numbered_from_anywhere(tmp_path):
    MINIATURES["fbms59"](tmp_path)
    name = BENCHMARKS["fbms59"].sequences()[0]
    folder = tmp_path / "Testset" / name
    for path in list(folder.glob("*.jpg")):
        path.rename(folder / f"{name}_{int(path.stem.split('_')[1]) + 453:03d}.jpg")
    for path in list((folder / "GroundTruth").iterdir()):
        path.rename(path.with_name(f"{name}_{int(path.stem.split('_')[1]) + 453:03d}_gt.pgm"))
    (sequence,) = read("fbms59", tmp_path)
    assert sequence.stems[0] == f"{name}_454" and sequence.annotated == [0, 4]


def test_void_and_colour_annotations(tmp_path):
    MINIATURES["ytvos2018_motion"](tmp_path)
    (sequence,) = read("ytvos2018_motion", tmp_path)
    assert sequence.annotated == [0, 5]
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:10] = YTVOS2018_MOTION_COLOURS[1]
    picture[20:30] = 7, 77, 7
    folder = tmp_path / "Annotations_motion" / sequence.name
    Image.fromarray(picture).save(folder / f"{sequence.stems[5]}.png")
    ids = sequence.annotation(5)
    assert (ids[0, 0], ids[25, 0], ids[40, 0]) == (2, VOID, 0)


@pytest.mark.parametrize("count, lengths", [(99, [99]), (100, [50, 50]), (205, [68, 68, 69])])
def test_long_sequences_are_split(count, lengths):
    whole = BenchmarkSequence(
        name="a",
        folder="a",
        stems=[f"{number:05d}" for number in range(count)],
        frame=lambda number: np.full((2, 2, 3), number, np.uint8),
        annotated=list(range(0, count, 5)),
        annotation=lambda number: np.full((2, 2), number, np.uint8),
    )
    parts = split_long_sequence(whole)
    assert [len(part.stems) for part in parts] == lengths
    assert sum((part.stems for part in parts), []) == whole.stems
    for part in parts:
        for number in part.annotated:
            stem = int(part.stems[number])
            assert stem % 5 == 0 and part.annotation(number)[0, 0] == stem
            assert part.frame(number)[0, 0, 0] == stem and part.folder == "a"


def test_moca_boxes(tmp_path):
    MINIATURES["moca_filter"](tmp_path)
    (sequence,) = read("moca_filter", tmp_path)
    assert sequence.annotated == [0, 5]
    assert [sequence.boxes[frame].motion for frame in (0, 5)] == [1, 1]
    assert sequence.boxes[0].corners == (8, 0, 24, 20)  # moved inside, size kept
    with pytest.raises(UserError, match="no box for the frames"):
        (tmp_path / "annotations.csv").write_text('0,/other/00000.jpg,"[2,1,1,1,1]",{}\n')
        read("moca_filter", tmp_path)


def test_the_real_boxes_of_moca(shared_dir):
    path = shared_dir / "reference" / "moca_annotations.csv"
    if not path.is_file():
        pytest.skip("needs MoCA's own annotation file, which is not here")
    boxes = read_moca_boxes(path)
    assert boxes.keys() == set(BENCHMARKS["moca_filter"].sequences())
    assert sum(map(len, boxes.values())) == 4803
    kinds = [box.motion for of_frame in boxes.values() for box in of_frame.values()]
    assert np.bincount(kinds).tolist() == [4066, 598, 139]
    assert boxes["arabian_horn_viper"]["00000"].corners == (482, 225, 482 + 507, 225 + 191)


@pytest.mark.parametrize("spoil", ["cut", "missing", "small"])
def test_broken_files_are_named(tmp_path, spoil):
    MINIATURES["davis2016"](tmp_path)
    (sequence,) = read("davis2016", tmp_path)
    path = tmp_path / "Annotations" / "480p" / sequence.name / "00003.png"
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:30])
        with pytest.raises(UserError, match="00003.png"):
            sequence.annotation(3)
    elif spoil == "missing":
        shutil.rmtree(path.parent)
        with pytest.raises(UserError, match="has no annotations"):
            read("davis2016", tmp_path)
    else:
        picture = tmp_path / "JPEGImages" / "480p" / sequence.name / "00003.jpg"
        picture.write_bytes(b"")
        with pytest.raises(UserError, match="00003.jpg is broken"):
            sequence.frame(3)


def test_frames_without_annotation_have_none(tmp_path):
    MINIATURES["davis2017_motion"](tmp_path)
    name = BENCHMARKS["davis2017_motion"].sequences()[0]
    write_frames(tmp_path / "JPEGImages" / "480p" / name, 10)
    (sequence,) = read("davis2017_motion", tmp_path)
    assert len(sequence.stems) == 10 and sequence.annotated == list(range(8))
    write_ids(
        tmp_path / "Annotations_motion" / "480p" / name / "00009.png", np.zeros((48, 64), np.uint8)
    )
    assert read("davis2017_motion", tmp_path)[0].annotated[-1] == 9
    write_png(tmp_path / "JPEGImages" / "480p" / name / "00010.png", np.zeros((48, 64), np.uint8))
    assert len(read("davis2017_motion", tmp_path)[0].stems) == 11
