"""`oclr convert` and `oclr weights`."""

import argparse

from oclr_jax.cli.options import add_command, not_empty


def add_convert(commands) -> None:
    about = "convert a released PyTorch checkpoint of any model of the project to safetensors"
    parser = add_command(commands, "convert", about, _convert)
    parser.add_argument(
        "input", metavar="IN.pth", type=not_empty("IN.pth"), help="released checkpoint"
    )
    parser.add_argument(
        "output",
        metavar="OUT.safetensors",
        type=not_empty("OUT.safetensors"),
        help="file to write; an existing one is replaced",
    )


def add_weights(commands) -> None:
    about = "list the known weights, and where each is looked for and published"
    add_command(commands, "weights", about, _weights)


def _convert(options: argparse.Namespace) -> None:
    from oclr_jax.weights.convert import convert_checkpoint

    info = convert_checkpoint(options.input, options.output)
    print(f"{options.output}: {info.name}, weights for {info.kind.title}")


def _weights(_: argparse.Namespace) -> None:
    from oclr_jax.weights.registry import list_weights

    print(list_weights())
