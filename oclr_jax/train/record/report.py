"""The report of a training, `report.html` in its workdir, with the curves in `curves.png`."""

from collections.abc import Iterable, Mapping

from etils import epath
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from oclr_jax.files import replacing
from oclr_jax.show.grid import evenly_spaced
from oclr_jax.show.training_page import TrainingSummary, write_training_page
from oclr_jax.train.record.environment import describe_environment
from oclr_jax.train.record.journal import Journal
from oclr_jax.train.record.strips import drawn_steps, read_strip
from oclr_jax.train.record.timing import PhaseTimer, total_seconds

# Evaluations of which a clip's strip is shown: the first, the newest, and one between.
_SHOWN = 3


class TrainingReport:
    """Writes the report from the workdir; environment and code are those of the start."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: epath.Path,
        command: str,
        curves: Mapping[str, Iterable[str]],
    ):
        self._config, self._workdir, self._command = config, workdir, command
        self._curves = curves
        self._environment = describe_environment()

    def write(self, step: int, journal: Journal, timer: PhaseTimer) -> None:
        """Writes the report of a training that has done `step` steps, and its curves."""
        # Here, because matplotlib takes a second to import.
        from oclr_jax.train.record.curves import draw_curves

        curves = draw_curves(journal.rows, self._curves)
        with replacing(self._workdir / "curves.png") as temporary:
            temporary.write_bytes(curves)
        scores = [
            {name: value for name, value in row.items() if name not in ("kind", "seconds")}
            for row in journal.rows
            if row["kind"] == "validation"
        ]
        summary = TrainingSummary(
            name=self._config.name,
            steps=(step, self._config.steps),
            command=self._command,
            scores=scores,
            phases=total_seconds(journal.rows, timer.pending),
            environment=self._environment,
            config=flatten_dict(self._config.to_dict(), sep="."),
            curves=curves,
            strips=self._strips(step),
        )
        write_training_page(self._workdir / "report.html", summary)

    def _strips(self, step: int) -> dict[str, dict[str, bytes]]:
        found = {}
        for clip in self._config.strips:
            steps = [drawn for drawn in drawn_steps(self._workdir, clip) if drawn <= step]
            chosen = [steps[index] for index in evenly_spaced(len(steps), _SHOWN)]
            if chosen:
                found[f"clip {clip} of {self._config.data.validation}"] = {
                    f"step {drawn:,}": read_strip(self._workdir, clip, drawn) for drawn in chosen
                }
        return found
