"""Renders a synthetic dataset: `python launch/generate.py --config syn_small --data_dir data`.

Textures, silhouettes and background videos are procedural unless folders are given. The same seed
gives the same data for any number of processes. To resume an interrupted run, repeat the command.
"""

import argparse
import os
import sys
from pathlib import Path

# Runs from a checkout, installed or not; so do the processes that it spawns.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("generate", "data"):
    sys.exit(BAD_INPUT)

from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSyn, OclrSynConfig
from data_pipelines.synthetic import Sources, open_sources
from oclr_jax.flow.source import GRAMMAR, open_estimator


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and renders; returns the exit status."""
    configs = {config.name: config for config in OclrSyn.BUILDER_CONFIGS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=configs, required=True, help="dataset to render")
    parser.add_argument("--data_dir", required=True, help="TFDS data directory to render into")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--images", help="folder of jpg or png files for textures (default: procedural)"
    )
    parser.add_argument(
        "--silhouettes",
        help="folder of annotations in the layout of DAVIS or YouTube-VOS for object shapes "
        "(default: procedural)",
    )
    parser.add_argument(
        "--videos",
        help="folder of video files or folders of frames for backgrounds (default: procedural)",
    )
    parser.add_argument(
        "--procedural",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of textures and shapes that stay procedural beside --images and --silhouettes, "
        "from 0 to 1 (default: 0)",
    )
    parser.add_argument(
        "--flow",
        metavar="ESTIMATOR",
        default="dis",
        help=f"{GRAMMAR}; with RAFT on a GPU use --processes 1 (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    return run_command(
        "generate",
        lambda: _generate(options, configs[options.config]),
        interrupted="interrupted; finished files are kept. Run the same command again to resume.",
    )


def _generate(options: argparse.Namespace, config: OclrSynConfig) -> None:
    sources = open_sources(options.images, options.silhouettes, options.videos, options.procedural)
    _name_broken_files(sources)
    # Flow is estimated at the resolution of the rendered frames.
    height, width = config.scene.render_height, config.scene.render_width
    own_size = {"dis": {"height": height, "width": width}, "raft": {"rows": None}}
    directory, rendered = generate_dataset(
        config,
        options.data_dir,
        open_estimator(options.flow, own_size),
        seed=options.seed,
        processes=options.processes,
        quiet=options.quiet,
        sources=sources,
    )
    print(f"{directory} {'is ready' if rendered else 'exists; nothing to do'}")


def _name_broken_files(sources: Sources) -> None:
    for folder in (sources.images, sources.silhouettes, sources.videos):
        if folder is not None and folder.broken:
            names = ", ".join(folder.broken[:10]) + (", ..." if len(folder.broken) > 10 else "")
            count = f"{len(folder.broken)} of {len(folder.broken) + len(folder.files)}"
            print(
                f"{folder.path}: skipped {count} files that cannot be read: {names}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
