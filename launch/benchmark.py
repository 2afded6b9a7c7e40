"""Runs a benchmark: `python launch/benchmark.py infer`. Each is documented in its own file."""

import argparse
import sys
from pathlib import Path

# Runs from a checkout, installed or not; so do the processes that it spawns.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("benchmark", "data"):
    sys.exit(BAD_INPUT)

from launch.speed import (
    aot,
    data,
    encodings,
    flow,
    infer,
    metrics,
    raft,
    refine,
    sam,
    segment,
    tracking,
    train,
    tta,
)

BENCHMARKS = {
    "aot": aot,
    "data": data,
    "encodings": encodings,
    "flow": flow,
    "infer": infer,
    "metrics": metrics,
    "raft": raft,
    "refine": refine,
    "sam": sam,
    "segment": segment,
    "tracking": tracking,
    "train": train,
    "tta": tta,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, benchmark in BENCHMARKS.items():
        benchmark.add_arguments(commands.add_parser(name, help=benchmark.__doc__.splitlines()[0]))
    options = parser.parse_args(arguments)
    return run_command("benchmark", lambda: BENCHMARKS[options.benchmark].main(options))


if __name__ == "__main__":
    sys.exit(main())
