"""Time, memory and the machine: what every benchmark here shares."""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

Work = Callable[[], object]


FEWEST = 2
"""Turns that each contender gets, however slow it is."""


def call_seconds(work: Work, repeats: int, device: str) -> float:
    """Seconds of one call of several; on CUDA by events around them."""
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeats
    begun = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - begun) / repeats


def turns(
    works: Sequence[Work],
    rounds: int,
    device: str,
    least: float = 0.02,
    limit: float = math.inf,
    call: Callable[[Work, int, str], float] = call_seconds,
) -> list[dict[int, float]]:
    """Times of several pieces of work, taken in turns so that a slow spell of the machine hits all.

    Args:
        works: called without arguments; each is warmed up first, so no compilation is timed.
        rounds: turns, the most that any of them gets.
        device: cpu or cuda.
        least: calls are repeated within a turn until they take about so long together.
        limit: seconds, of which each of them may use an equal part: the slow ones get fewer turns, FEWEST at least,
            spread evenly over the rounds.
        call: calls one of them several times, and gives the seconds of one call.

    Returns:
        Of each, the seconds of one call, by round.
    """
    share, repeats, wanted = limit / len(works), [], []
    for work in works:
        took = call(work, 1, device)
        if took < 1 or device == "cuda":  # of a slow one compilation is a small part, and a second call costs too much
            took = call(work, 1, device)
        repeats.append(max(1, min(200, round(least / max(took, 1e-9)))))
        fitting = share / max(repeats[-1] * took, 1e-9) - 1 / repeats[-1]  # one call is done
        wanted.append(min(rounds, FEWEST) if fitting < FEWEST else min(rounds, int(min(fitting, rounds))))
    taken: list[dict[int, float]] = [{} for _ in works]
    for turn in range(rounds):
        for index, work in enumerate(works):
            if (turn + 1) * wanted[index] // rounds > turn * wanted[index] // rounds:
                taken[index][turn] = call(work, repeats[index], device)
    return taken


def seconds(works: Sequence[Work], rounds: int, device: str, least: float = 0.02) -> list[float]:
    """Median of the `turns` of each piece of work."""
    return [statistics.median(times.values()) for times in turns(works, rounds, device, least)]


def ratio(over: dict[int, float], under: dict[int, float]) -> float:
    """Median of two contenders' ratios in the rounds that both took part in.

    A ratio of medians would set one's slow round against another's quick one.
    """
    return statistics.median(over[turn] / under[turn] for turn in over.keys() & under.keys())


def timed(
    kinds: Sequence[str],
    works: Sequence[Work],
    rounds: int,
    device: str,
    least: float = 0.02,
    limit: float = math.inf,
    ratios: Mapping[str, tuple[str, str]] | None = None,
    call: Callable[[Work, int, str], float] = call_seconds,
) -> dict[str, float]:
    """A row's columns: median milliseconds of each kind of work, as KIND_ms, of how many `turns`, as KIND_turns.

    Args:
        kinds: names.
        works: of each name.
        rounds: as in `turns`, and so on.
        device: likewise.
        least: likewise.
        limit: likewise.
        ratios: further columns, by name: the kinds whose `ratio` they are, over and under.
        call: as in `turns`.
    """
    taken = dict(zip(kinds, turns(works, rounds, device, least, limit, call), strict=True))
    row = {f"{kind}_ms": 1e3 * statistics.median(times.values()) for kind, times in taken.items()}
    row |= {f"{kind}_turns": len(times) for kind, times in taken.items()}
    return row | {name: ratio(taken[over], taken[under]) for name, (over, under) in (ratios or {}).items()}


def minutes(text: str) -> float:
    """Value of the options --minutes."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} minutes: must be more than 0")
    return value


class Budget:
    """A time limit, shared over the measurements still to come by what each is expected to cost.

    Args:
        minutes: from now on; null sets no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.left_out: list[str] = []
        """Measurements that no time was left for, by name."""

    def share(self, costs: dict[str, float]) -> Iterator[tuple[str, float]]:
        """Each name in turn, with the seconds that it may take; the others' grow by what it leaves."""
        to_come = sum(costs.values())
        for name, cost in costs.items():
            left = self._end - time.monotonic()
            if left > 0:
                yield name, left * cost / to_come
            else:
                print(f"left out for lack of time: {name}")
                self.left_out.append(name)
            to_come -= cost


def captured(work: Work, device: str) -> Work | None:
    """The work as a CUDA graph: its kernels without Python's share; None, with a warning, where it cannot be captured.

    On a CPU, where there are no graphs, the work itself.
    """
    if device != "cuda":
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiled, and cuBLAS's workspace made, before anything is captured
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except RuntimeError as error:
        torch.cuda.synchronize()
        warnings.warn(f"not captured: {str(error).strip().splitlines()[0]}", stacklevel=2)
        return None
    return graph.replay


MODES = ("eager", "replay")
"""Called from Python; replayed as a CUDA graph."""


def in_mode(mode: str, works: dict[str, Work], device: str) -> dict[str, Work]:
    """The contenders of one of the MODES; those that cannot take part are left out."""
    if mode == "eager":
        return works
    graphs = {kind: captured(work, device) for kind, work in works.items()}
    return {kind: graph for kind, graph in graphs.items() if graph is not None}


def ceilings(dtype: torch.dtype) -> tuple[float, float]:
    """What the GPU reaches here and now: operations a second of a large product, bytes a second of a large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    product, copy = seconds([lambda: a @ b, lambda: target.copy_(source)], 5, "cuda")
    return 2 * 8192**3 / product, 2 * source.nbytes / copy
