"""A miniature of each benchmark in the layout of its authors: one sequence of 8 frames."""

import csv

import cv2
import numpy as np
from PIL import Image

from oclr_jax.datasets.benchmarks import BENCHMARKS, VOID, YTVOS2018_MOTION_COLOURS
from oclr_jax.video.png import write_ids, write_png
from tests.clips import texture

FRAMES = 8


def frame(number):
    """RGB 48x64: a rectangle that moves right in front of a static background."""
    image = texture(0, 48, 64)
    image[8:20, 8 + number : 24 + number] = texture(1, 12, 16)
    return image


def mask(number):
    """The rectangle: id 1."""
    ids = np.zeros((48, 64), np.uint8)
    ids[8:20, 8 + number : 24 + number] = 1
    return ids


def write_frames(folder, count=FRAMES, name="{:05d}.jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = np.ascontiguousarray(frame(min(number, 20))[..., ::-1])
        cv2.imwrite(str(folder / name.format(number)), image)


def _name(dataset):
    return BENCHMARKS[dataset].sequences()[0]


def davis2016(root):
    name = _name("davis2016")
    write_frames(root / "JPEGImages" / "480p" / name)
    for number in range(FRAMES):
        path = root / "Annotations" / "480p" / name / f"{number:05d}.png"
        write_png(path, mask(number) * np.uint8(255))


def davis2017_motion(root):
    name = _name("davis2017_motion")
    write_frames(root / "JPEGImages" / "480p" / name)
    for number in range(FRAMES):
        ids = mask(number)
        ids[30:40, 40:60] = 2
        ids[44:] = VOID
        write_ids(root / "Annotations_motion" / "480p" / name / f"{number:05d}.png", ids)


def segtrack_v2(root):
    name = _name("segtrack_v2")
    write_frames(root / "JPEGImages" / name, name="frame_{}.png")
    for number in range(FRAMES):
        second = np.zeros((48, 64), np.uint8)
        second[36:44, 50:62] = 1
        for object, ids in (("1", mask(number)), ("2", second)):
            path = root / "GroundTruth" / name / object / f"frame_{number}.png"
            write_png(path, ids * np.uint8(255))


def fbms59(root):
    name = _name("fbms59")
    folder = root / "Testset" / name
    folder.mkdir(parents=True)
    for number in range(FRAMES):
        image = np.ascontiguousarray(frame(number)[..., ::-1])
        cv2.imwrite(str(folder / f"{name}_{number + 1:02d}.jpg"), image)
    (folder / "GroundTruth").mkdir()
    for number in (0, 4):
        labels = mask(number) * np.uint8(120)
        labels[36:44, 50:62] = 200
        labels[36:44, :10] = 10
        Image.fromarray(labels).save(folder / "GroundTruth" / f"{name}_{number + 1:02d}_gt.pgm")


def moca_filter(root):
    name = _name("moca_filter")
    write_frames(root / "JPEGImages" / name)
    with open(root / "annotations.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["", "file_list", "spatial_coordinates", "metadata"])
        rows.writerow([0, f"/{name}/00000.jpg", "[2,8,-3,16,20]", "{'1': '1'}"])
        rows.writerow([1, f"/{name}/00005.jpg", "[2,13,8,16,12]", "{}"])
        rows.writerow([2, f"/{name}/00006.jpg", "[]", "{}"])


def ytvos2018_motion(root):
    name = _name("ytvos2018_motion")
    write_frames(root / "JPEGImages" / name)
    palette = np.zeros((256, 3), np.uint8)
    palette[1 : 1 + len(YTVOS2018_MOTION_COLOURS)] = YTVOS2018_MOTION_COLOURS
    folder = root / "Annotations_motion" / name
    folder.mkdir(parents=True)
    for number in (0, 5):
        image = Image.fromarray(mask(number))
        image.putpalette(palette.tobytes())
        image.save(folder / f"{number:05d}.png")


MINIATURES = {
    "davis2016": davis2016,
    "davis2017_motion": davis2017_motion,
    "segtrack_v2": segtrack_v2,
    "fbms59": fbms59,
    "moca_filter": moca_filter,
    "ytvos2018_motion": ytvos2018_motion,
}
