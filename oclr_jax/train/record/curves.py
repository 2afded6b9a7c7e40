"""Training curves as a picture."""

import io
from collections.abc import Iterable, Mapping

import matplotlib

from oclr_jax.train.record.journal import Row

matplotlib.use("Agg")

import matplotlib.pyplot as plt


def draw_curves(rows: list[Row], curves: Mapping[str, Iterable[str]]) -> bytes:
    """Draws values over the steps, and returns a PNG.

    Args:
      curves: of each panel, by its title, as "kind/name" of the rows.
    """
    size = (5 * len(curves), 4)
    figure, axes = plt.subplots(1, len(curves), figsize=size, layout="constrained", squeeze=False)
    for axis, (title, names) in zip(axes[0], curves.items(), strict=True):
        for curve in names:
            kind, name = curve.split("/")
            points = [(r["step"], r[name]) for r in rows if r["kind"] == kind and name in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=curve, marker="." * (len(points) < 50))
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    plt.close(figure)
    return png.getvalue()
