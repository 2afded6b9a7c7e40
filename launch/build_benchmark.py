"""Builds a benchmark as a TFDS dataset that includes estimated optical flow."""

import argparse
import sys
from pathlib import Path

# `launch` is run from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("build_benchmark", "data"):
    sys.exit(BAD_INPUT)

import tensorflow_datasets as tfds

from data_pipelines.builders.benchmarks import BUILDERS
from oclr_jax.datasets.benchmarks import BENCHMARKS
from oclr_jax.errors import UserError
from oclr_jax.flow.source import GRAMMAR, open_estimator


def build(
    name: str, manual_dir: Path, data_dir: Path, gap: int | None = None, flow: str = "dis"
) -> Path:
    """Builds `data_dir/<name>/gap<gap>/<version>`, unless it exists; returns that directory.

    Args:
      manual_dir: the dataset as its authors distribute it.
      gap: of the flow, in frames; None for that of the papers.
      flow: option of `oclr_jax.flow.source`.

    Raises:
      UserError: for a wrong gap or estimator, for files that are not laid out as by the dataset's
        authors, and for an existing dataset with the flow of another estimator.
    """
    gap = gap or BENCHMARKS[name].gaps[0]
    if gap not in BENCHMARKS[name].gaps:
        known = " or ".join(map(str, BENCHMARKS[name].gaps))
        raise UserError(f"{BENCHMARKS[name].title} is scored with flow at gap {known}, not {gap}.")
    if not manual_dir.is_dir():
        raise UserError(f"The folder {manual_dir} does not exist; put the dataset there.")
    estimator = open_estimator(flow)
    builder = BUILDERS[name](data_dir=data_dir, config=f"gap{gap}", estimator=estimator)
    if builder.data_path.exists():
        stored = tfds.builder_from_directory(builder.data_path).info.metadata["flow"]
        wanted = estimator.settings() | {"gap": gap}
        if stored != wanted:
            raise UserError(
                f"{builder.data_path} exists with flow of {stored}, not of {wanted}; choose "
                "another --data_dir."
            )
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    download = tfds.download.DownloadConfig(manual_dir=manual_dir)
    builder.download_and_prepare(download_config=download)
    return Path(builder.data_dir)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=tuple(BUILDERS), required=True)
    parser.add_argument(
        "--manual_dir", type=Path, required=True, help="the dataset as its authors distribute it"
    )
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where to build")
    parser.add_argument("--gap", type=int, help="of the flow (default: that of the papers)")
    parser.add_argument(
        "--flow", metavar="ESTIMATOR", default="dis", help=f"{GRAMMAR} (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    data = options.dataset, options.manual_dir, options.data_dir
    return run_command(
        "build_benchmark",
        lambda: print(build(*data, options.gap, options.flow)),
        interrupted="interrupted; run the same command again.",
    )


if __name__ == "__main__":
    sys.exit(main())
