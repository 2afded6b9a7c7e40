"""What the papers' tables consist of: rows, published figures, commands that fill them."""

from typing import NamedTuple

from oclr_jax.datasets.ablations import E6, EXPERIMENTS, Experiment
from oclr_jax.datasets.published import PUBLISHED


class Setting(NamedTuple):
    """What identifies the evaluations of a row.

    model: of `oclr evaluate --model`.
    refiners: names, in order.
    weights: regular expression that must match in the settings of the weights, or "".
    """

    model: str
    refiners: tuple[str, ...] = ()
    weights: str = ""


class Row(NamedTuple):
    """A row of a table.

    name: as in the paper.
    published: figures by column, in the order of the table's columns; "" where there is none.
    commands: that fill the row; none for a program that is not part of the project.
    needs: what the commands need beyond the data of the columns.
    setting: of the evaluations that count for the row; None if they are not identified.
    """

    name: str
    published: tuple[str, ...]
    commands: tuple[str, ...] = ()
    needs: str = ""
    setting: Setting | None = None


class PaperTable(NamedTuple):
    """A table of a paper; `dataset`: that of its commands, for one of the columns."""

    title: str
    dataset: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


DINO = "DINO weights (`oclr weights`)"
REFINE = f"selector and corrector in REFINE; {DINO}"
EVALUATE = "oclr evaluate --dataset DATASET --data DATA"
FLOW_COMMANDS = (f"{EVALUATE} --weights OCLR --flow raft:RAFT --refine none",)
RELEASED = "released weights of OCLR and RAFT, or a full training"


def refined(*names: str, more: str = "") -> tuple[str, ...]:
    options = f" --refine-weights REFINE{more}"
    return (f"{FLOW_COMMANDS[0].replace('none', ','.join(names))}{options}",)


def adapted(stages: str, *names: str, options: str = "") -> tuple[str, ...]:
    """Adapts to the videos of the dataset, then evaluates with refiners."""
    flow = "ADAPTED/weights.safetensors" if "flow" in stages else "OCLR"
    evaluate = f"{EVALUATE} --weights {flow} --flow raft:RAFT --refine {','.join(names)}"
    return (
        "oclr adapt VIDEOS --output ADAPTED --weights OCLR --flow raft:RAFT --refine appearance "
        f"--refine-weights REFINE --stages {stages}{options}",
        f"{evaluate} --refine-weights ADAPTED/refine",
    )


def training_command(config: str, *options: str) -> str:
    fields = "".join(f" --config.{option}" for option in options)
    return f"python launch/train.py --config configs/{config} --workdir WORKDIR{fields}"


# Table 16: the upsampling is fine-tuned on annotated videos; REFINE then has the result.
UPSAMPLING = (
    "python launch/import_annotated.py TRAINING --data_dir data --config annotated_train "
    "--split train",
    "python launch/import_annotated.py VALIDATION --data_dir data --config annotated_val "
    "--split validation",
    "python launch/predict_masks.py data/oclr_syn/annotated_train/2.0.0 --weights OCLR "
    "--name oclr-small",
    training_command("corrector.py:upsampling", "init_weights=REFINE/corrector.safetensors"),
)
ANNOTATED = f"{REFINE}; the training sets of DAVIS2017 and YouTube-VOS 2018"

# Rows of other tables that are methods of this project: commands, needs, setting.
_METHODS = {
    "OCLR (flow-only)": (FLOW_COMMANDS, RELEASED, Setting("oclr")),
    "OCLR-flow": (FLOW_COMMANDS, RELEASED, Setting("oclr")),
    "OCLR (test. adap.)": (
        (FLOW_COMMANDS[0].replace("none", "tta"),),
        f"{RELEASED}; {DINO}; a GPU",
        Setting("oclr", ("tta",)),
    ),
    "Motion Grouping": (
        (
            training_command("motion_grouping.py", "data.videos=VIDEOS"),
            f"{EVALUATE} --model motion-grouping --weights WEIGHTS --protocol motion-grouping",
        ),
        "the videos of the dataset, or released weights",
        Setting("motion-grouping", weights="motion-grouping(?!-supervised)"),
    ),
    "MG-sup.": (
        (
            training_command("motion_grouping.py:supervised"),
            f"{EVALUATE} --model motion-grouping --weights WEIGHTS --refine none",
        ),
        "`syn_train`",
        Setting("motion-grouping", weights="motion-grouping-supervised"),
    ),
    "Mask R-CNN": (
        (
            training_command("mask_rcnn.py"),
            f"{EVALUATE} --model mask-rcnn --weights WEIGHTS --refine none",
        ),
        "`syn_train`",
        Setting("mask-rcnn", weights="mask-rcnn(?!-rgb)"),
    ),
    "Mask R-CNN, RGB, flow": (
        (
            training_command("mask_rcnn.py:rgb"),
            f"{EVALUATE} --model mask-rcnn --weights WEIGHTS --refine none",
        ),
        "`syn_train`",
        Setting("mask-rcnn", weights="mask-rcnn-rgb"),
    ),
    "Ours (second paper)": (
        refined("appearance", "crf"),
        f"{RELEASED}; {REFINE}; adapted weights",
        Setting("oclr", ("select", "correct", "crf")),
    ),
    "OCLR-flow + SAM": (
        (FLOW_COMMANDS[0].replace("none", "sam"),),
        f"{RELEASED}; SAM weights (`oclr weights`)",
        Setting("oclr", ("sam",)),
    ),
    "Ours (second paper) + SAM": (
        refined("appearance", "sam"),
        f"{RELEASED}; {REFINE}; SAM weights",
        Setting("oclr", ("select", "correct", "sam")),
    ),
    "DINO (first-frame mask)": (
        ("oclr propagate VIDEO FIRST_MASK.png RESULT", f"{EVALUATE} --results RESULTS"),
        DINO,
        None,
    ),
}
_METHODS["OCLR-TTA"] = _METHODS["OCLR (test. adap.)"]
_METHODS["MG"] = _METHODS["Motion Grouping"]


def method_row(name: str, *published: object, inputs: str = "") -> Row:
    """A row with a command if its method, for these inputs or any, is part of the project."""
    cells = tuple("" if figure is None else str(figure) for figure in published)
    full = f"{name}, {inputs}" if inputs else name
    return Row(full, cells, *_METHODS.get(full, _METHODS.get(name, ())))


# What every learned model must beat.
GEOMETRIC = Row(
    "geometric (not in the paper), flow",
    (),
    (f"{EVALUATE} --model geometric --refine none",),
    setting=Setting("geometric"),
)


def with_geometric(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows of a table, and the geometric baseline, which the papers do not have."""
    return (*rows, GEOMETRIC._replace(published=("",) * len(rows[0].published)))


def benchmark_rows(paper: str, benchmarks: dict[str, tuple[str, ...]]) -> tuple[Row, ...]:
    """Rows of the comparison tables: benchmark -> metrics, in the order of the columns."""
    keys: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for benchmark, names in benchmarks.items():
        for result in PUBLISHED[benchmark]:
            if result.paper == paper:
                row = keys.setdefault((result.method, result.inputs), {})
                row |= {(benchmark, name): result.figures.get(name) for name in names}
    columns = [(benchmark, name) for benchmark, names in benchmarks.items() for name in names]
    return tuple(
        method_row(method, *(figures.get(column) for column in columns), inputs=inputs)
        for (method, inputs), figures in keys.items()
    )


def _experiment(experiment: Experiment) -> Row:
    return Row(
        f"Ours-{experiment.name[-1].upper()}: {experiment.setting}",
        tuple(str(figure) for figure in experiment.figures),
        (training_command(f"oclr_flow.py:{experiment.name}"),),
        f"{'`single_both`' if experiment.table == E6 else '`syn_train`'}, 5 days on a V100 each",
    )


def experiment_rows(table: str) -> tuple[Row, ...]:
    return tuple(_experiment(each) for each in EXPERIMENTS if each.table == table)


def propagation_row(name: str, refiner: str, *published: object) -> Row:
    setting = Setting("oclr", (refiner,) if refiner else ())
    command = (FLOW_COMMANDS[0].replace("none", refiner or "none"),)
    needs = f"{RELEASED}; {DINO}; a GPU" if refiner else RELEASED
    return Row(name, tuple(map(str, published)), command, needs, setting)


def selector_row(name: str, published: object, config: str = "") -> Row:
    commands = ("python launch/reports/selection.py DATA --refine-weights REFINE",)
    training = (training_command(config),) if config else ()
    needs = DINO if name == "propagation" else "`syn_train`" if config else ""
    return Row(name, (str(published),), (*training, *commands), needs)


def corrector_row(name: str, published: tuple, *options: str, config: str = "corrector.py") -> Row:
    weights = config.partition(":")[2]
    return Row(
        name,
        tuple(map(str, published)),
        (training_command(config, *options), *refined("appearance")),
        f"`syn_train`; {REFINE}",
        Setting("oclr", ("select", "correct"), f"corrector-{weights}" if weights else "corrector"),
    )
