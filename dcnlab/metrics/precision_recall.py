"""Plot of precision over recall: one panel, a curve for each class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dcnlab.metrics.voc_ap import Curve

MOST = 10
"""Curves in one panel, so that their colours differ."""


def draw(curves: Mapping[str, Curve], path: Path, title: str) -> None:
    """Draw the curves of the classes, at most `MOST` of them: those with most objects, which the title then says.

    Args:
        curves: of each class by name; classes without objects have none.
        path: picture to write; its ending is the format.
        title: over the panel.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    present = {name: curve for name, curve in curves.items() if curve.objects}
    shown = dict(sorted(present.items(), key=lambda item: -item[1].objects)[:MOST])
    if len(shown) < len(present):
        title += f"\n{len(shown)} of {len(present)} classes: those with most objects"
    figure = Figure(figsize=(7, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for at, (name, curve) in enumerate(sorted(shown.items(), key=lambda item: -item[1].ap)):
        # The curve begins at recall 0 with its first precision, and falls to 0 where the detections end.
        recall = np.concatenate([[0], curve.recall, curve.recall[-1:]])
        precision = np.concatenate([curve.precision[:1], curve.precision, [0] if len(curve.recall) else []])
        label = (name if len(name) <= 24 else f"{name[:23]}…").replace("$", r"\$")  # no mathematics in names
        axes.plot(recall[: len(precision)], precision, color=f"C{at}", label=f"{label} {curve.ap:.1f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title.replace("$", r"\$"))
    axes.grid(alpha=0.3)
    if shown:
        axes.legend(title="class, AP (%)", loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    figure.savefig(path)
