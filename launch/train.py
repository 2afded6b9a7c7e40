"""Trains a model: `python launch/train.py --config configs/oclr_flow.py --workdir DIR`.

`configs/oclr_flow.py` is the flow model, `configs/raft.py` optical flow.

Variants follow a colon, single fields a dot: `--config configs/oclr_flow.py:small
--config.data.dir=DATA --config.steps=100`. The same command again goes on where it stopped: after
Ctrl-C (exit status 130), a preemption by SIGTERM (143), an error (2), or a crash.

It runs on all devices of this machine. On several machines the same command is started on each: a
TPU slice, SLURM and Open MPI say themselves who belongs together, others do it with
`--coordinator=HOST:PORT --processes=N --process_id=0` to N-1.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

# `launch` is run from a checkout, installed or not; the loader's workers need it too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from data_pipelines.builders.oclr_syn import OclrSyn, Rendering
from data_pipelines.loaders.batches import Loader
from data_pipelines.loaders.clips import make_clip_loader
from data_pipelines.loaders.online import make_online_loader
from data_pipelines.loaders.pairs import make_pair_loader
from data_pipelines.loaders.sequences import dataset_directory
from data_pipelines.synthetic import open_sources
from oclr_jax.errors import UserError
from oclr_jax.flow.dis import DIS
from oclr_jax.train.devices import check_batch, join_processes
from oclr_jax.train.interrupts import Stop
from oclr_jax.train.loop import Data, train
from oclr_jax.train.replay import replay

ROOT = Path(__file__).resolve().parents[1]
CONFIG = config_flags.DEFINE_config_file("config", help_string="FILE.py or FILE.py:variant,variant")
PROFILE = flags.DEFINE_bool("profile", False, "trace a few steps into WORKDIR/profile")
WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything that the training writes")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, of several")
PROCESSES = flags.DEFINE_integer("processes", None, "how many processes train together")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this one is, from 0")
REPLAY = flags.DEFINE_string("replay", None, "kept batch of a step that was not finite: look again")


def open_data(config: ConfigDict) -> Data:
    """Training and validation batches of the generated datasets that the configuration names."""
    training, validation = (_open_pairs if config.task == "optical_flow" else _open_clips)(config)
    return Data(
        batches=training.iterate,
        validation=validation.iterate,
        version=training.settings["data_version"],
        flow=training.settings["flow"],
        samples=training.samples,
    )


def _open_pairs(config: ConfigDict) -> tuple[Loader, Loader]:
    """Pairs of frames to train on, and to evaluate on."""
    data = config.data
    own = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    training = make_pair_loader(
        dataset_directory(data.dir, data.train),
        "train",
        batch_size=config.batch_size // jax.process_count(),
        crop=tuple(data.crop),
        train=True,
        seed=config.seed,
        workers=data.workers,
        **own,
    )
    directory = dataset_directory(data.dir, data.validation)
    return training, make_pair_loader(directory, "validation", batch_size=1, train=False, **own)


def _open_clips(config: ConfigDict) -> tuple[Loader, Loader]:
    """Clips of flow and masks to train on, and to evaluate on."""
    model = config.model
    clips = {
        "frames": model.frames,
        "height": model.height,
        "width": model.width,
        "gaps": tuple(model.gaps),
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    training = _open_training_clips(config, clips)
    validation = make_clip_loader(
        dataset_directory(config.data.dir, config.data.validation),
        "validation",
        batch_size=1,
        train=False,
        **clips,
    )
    return training, validation


def _open_training_clips(config: ConfigDict, clips: dict[str, Any]) -> Loader:
    """Stored training clips, or the stream that is rendered while the training runs."""
    data = config.data
    batches = {
        "batch_size": config.batch_size // jax.process_count(),
        "seed": config.seed,
        "workers": data.workers,
        "flow": data.flow,
        "stride": data.stride,
    }
    if not data.online:
        directory = dataset_directory(data.dir, data.train)
        extra = tuple(data.beside)
        return make_clip_loader(
            directory, "train", train=True, extra_datasets=extra, **batches, **clips
        )
    if data.beside:
        raise UserError("data.beside is for stored data; leave it empty with data.online.")
    rendered = {each.name: each for each in OclrSyn.BUILDER_CONFIGS}
    if data.train not in rendered:
        raise UserError(f"There is no data {data.train!r} to render; choose from {list(rendered)}.")
    scene = rendered[data.train].scene
    sources = open_sources(data.images or None, data.silhouettes or None, data.videos or None)
    estimator = DIS(scene.render_height, scene.render_width)
    recipe = Rendering(rendered[data.train], config.seed, estimator, sources)
    return make_online_loader(recipe, **batches, **clips)


def keep_compiled_programs() -> None:
    """Keeps them in the checkout for the next run, unless the environment names another place."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))


def main(argv: list[str]) -> int:
    config, workdir, stop = CONFIG.value, WORKDIR.value, Stop()
    keep_compiled_programs()
    command = shlex.join(["python", "launch/train.py", *sys.argv[1:]])
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]} is not an option; options begin with --.")
        join_processes(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
        check_batch(config.batch_size, config.accumulate)
        data = open_data(config)
        if REPLAY.value:
            print(replay(config, workdir, data, REPLAY.value))
            return 0
        state = train(config, workdir, data, command=command, profile=PROFILE.value, stop=stop)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"Interrupted at once; to go on from the last checkpoint: {command}", file=sys.stderr)
        return 130
    if stop.signal is not None:
        print(f"Stopped and saved at step {int(state.step)}; to go on: {command}", file=sys.stderr)
        return 128 + stop.signal
    return 0


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with a sentence and status 2 for a mistake in flags or configuration."""
    try:
        rest = flags.FLAGS(argv)
        CONFIG.value.keys()  # a configuration file that could not be loaded raises only when used
    except (flags.Error, ValueError, LookupError, AttributeError, TypeError, OSError) as error:
        # The message stands last, under a traceback; a KeyError's text is the repr of its message.
        text = str(error).replace(r"\n", "\n").strip("'")
        print(f"{text.strip().splitlines()[-1].strip()} (see --help)", file=sys.stderr)
        sys.exit(2)
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)
    return rest


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
