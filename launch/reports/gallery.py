"""Contact sheets of videos, segmented by the shipped weights and the default refiner.

`python launch/reports/gallery.py dog.mp4 --scenes 8 11 --results results --output docs/gallery`
segments videos and rendered scenes into `results`, where finished results stay, and writes
`<name>.jpg` for each: frames, flow, modal masks and amodal masks. Scenes are drawn by their seeds
with the settings of the demo and called `scene_<seed>`.
"""

import argparse
import sys
from pathlib import Path

# Runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from PIL import Image

from launch import demo
from oclr_jax.batch import format_outcomes, name_videos, open_batch, segment_many
from oclr_jax.command import run_command
from oclr_jax.errors import SomeFailed
from oclr_jax.results import read_record

COLUMNS, TILE_HEIGHT, QUALITY = 5, 120, 80


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, segments and draws; returns the exit status."""
    parser = argparse.ArgumentParser("gallery", description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="*", help="video files or folders of frames")
    parser.add_argument("--scenes", type=int, nargs="*", default=[], help="seeds to render")
    parser.add_argument("--results", type=Path, required=True, help="folder of the results")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    options = parser.parse_args(arguments)
    return run_command("gallery", lambda: _draw(options))


def _draw(options: argparse.Namespace) -> None:
    rendered = [options.results / "scenes" / f"scene_{seed}.mp4" for seed in options.scenes]
    for seed, path in zip(options.scenes, rendered, strict=True):
        if not path.is_file():
            demo.render_clip(path, seed)
    paths = [*options.videos, *rendered]
    videos = name_videos(paths, [path.stem for path in paths], "the gallery")
    outcomes = list(segment_many(open_batch(overlay=False, quiet=False), videos, options.results))
    print(format_outcomes(outcomes))
    options.output.mkdir(parents=True, exist_ok=True)
    for (name, video), outcome in zip(videos.items(), outcomes, strict=True):
        if not outcome.error:
            folder = options.results / name
            sheet = demo.draw_sheet(video, folder, read_record(folder), COLUMNS, TILE_HEIGHT)
            Image.fromarray(sheet).save(
                options.output / f"{name}.jpg", quality=QUALITY, optimize=True
            )
    if any(outcome.error for outcome in outcomes):
        raise SomeFailed("Some videos could not be segmented.")


if __name__ == "__main__":
    sys.exit(main())
