"""Imports annotated videos as a dataset to train on.

`python launch/import_annotated.py FOLDER --data_dir data --config davis_train --split train`,
where FOLDER has the layout of DAVIS: `JPEGImages` and `Annotations`.
"""

import argparse
import os
import sys
from pathlib import Path

# Runs from a checkout, installed or not; so do the processes that it spawns.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("import_annotated", "data"):
    sys.exit(BAD_INPUT)

from data_pipelines.builders.annotated import import_annotated
from oclr_jax.flow.source import GRAMMAR, open_estimator


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and imports; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder of the videos and their annotations")
    parser.add_argument("--data_dir", required=True, help="TFDS data directory to write into")
    parser.add_argument("--config", required=True, help="name of the dataset to write")
    parser.add_argument("--split", choices=("train", "validation"), required=True)
    parser.add_argument("--frames", type=int, default=30, help="of a clip (default: %(default)s)")
    parser.add_argument("--flow", default="dis", help=f"estimator of the flow: {GRAMMAR}")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    return run_command(
        "import_annotated",
        lambda: _import(options),
        interrupted="interrupted; finished files are kept. Run the same command again to resume.",
    )


def _import(options: argparse.Namespace) -> None:
    directory, made = import_annotated(
        *(options.folder, options.data_dir, options.config, options.split),
        open_estimator(options.flow),
        options.frames,
        options.processes,
        options.quiet,
    )
    print(f"{directory} {'is ready' if made else 'exists; nothing to do'}")


if __name__ == "__main__":
    sys.exit(main())
