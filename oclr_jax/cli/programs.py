"""`oclr export-model`."""

import argparse

from oclr_jax.cli.options import add_command, add_refine_weights, names, not_empty
from oclr_jax.types import PRECISIONS


def add(commands) -> None:
    about = "write a model as a program that jax runs without this package"
    parser = add_command(commands, "export-model", about, run)
    parser.add_argument(
        "output",
        metavar="OUT.zip",
        type=not_empty("OUT.zip"),
        help="file to write; an existing one is replaced",
    )
    parser.add_argument(
        "--program",
        metavar="NAME",
        type=not_empty("--program"),
        default="flow",
        help="flow (from optical flow to layers), selector or corrector (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE",
        type=not_empty("--weights"),
        help="weights of the program flow (default: those that come with the package)",
    )
    add_refine_weights(parser)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="numeric precision of the computation (default: %(default)s)",
    )
    parser.add_argument(
        "--platforms",
        metavar="NAMES",
        type=not_empty("--platforms"),
        default="cpu,cuda,tpu",
        help="where the program can run (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    from oclr_jax.programs import export_model

    about = export_model(
        options.output,
        options.program,
        weights=options.weights,
        refine_weights=options.refine_weights,
        precision=options.precision,
        platforms=names(options.platforms),
    )
    for kind in ("inputs", "outputs"):
        for array in about[kind]:
            shape = " ".join(str(side) for side in array["shape"])
            print(f"{kind[:-1]} {array['name']}: {array['dtype']} [{shape}], {array['meaning']}")
