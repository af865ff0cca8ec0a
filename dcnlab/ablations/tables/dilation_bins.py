"""Effective dilation over boxes in bins of their size, for a chart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dcnlab.ablations.plots.dilation_chart import Panel
from dcnlab.ablations.tables.box_statistics import interval, mean
from dcnlab.metrics.box_dilation import BoxDilation

_BINS, _BOXES = 8, 20
"""The largest number of bins, and the boxes that each should have at least."""


def panels(runs: Sequence[BoxDilation]) -> list[Panel]:
    """One panel a layer: bins of equally many boxes, each with its mean over seeds, interval and null.

    Args:
        runs: as `dilation_claims.rows` takes them.
    """
    return [_panel(runs, at) for at in range(len(runs[0].layers))]


def _panel(runs: Sequence[BoxDilation], layer: int) -> Panel:
    first, plain = runs[0], runs[0].plain[layer]
    kept = ~np.isnan(first.real[layer]) & ~np.isnan(first.moved[layer]) & (first.area > 0)
    side = np.sqrt(first.area)
    count = max(1, min(_BINS, int(kept.sum()) // _BOXES))
    edges = np.unique(np.quantile(side[kept], np.linspace(0, 1, count + 1)))
    bin_of = np.searchsorted(edges[1:-1], side, side="right")
    panel = Panel(str(first.layers[layer]), [], [], [], [], [], _background(runs, layer))
    for number in range(max(1, len(edges) - 1)):
        within = kept & (bin_of == number)
        real = interval(np.array([mean(run, run.real[layer] / plain, within) for run in runs]))
        if real is None:
            continue
        panel.sides.append(float(np.exp(np.log(side[within]).mean())))
        panel.mean.append(real.estimate)
        panel.low.append(real.low)
        panel.high.append(real.high)
        panel.null.append(float(np.mean([run.moved[layer][within].mean() for run in runs]) / plain))
    return panel


def _background(runs: Sequence[BoxDilation], layer: int) -> float | None:
    """Mean over images and seeds; None where no filter is outside the boxes."""
    values = np.concatenate([run.background[layer] for run in runs])
    values = values[~np.isnan(values)]
    return float(values.mean() / runs[0].plain[layer]) if values.size else None
