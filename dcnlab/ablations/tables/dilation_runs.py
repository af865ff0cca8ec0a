"""The boxes of measured runs that differ in their seed alone, for tests of table 2's claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.ablations.tables.run_record import differences
from dcnlab.config import identity
from dcnlab.config.load import read_run
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import box_dilation
from dcnlab.metrics.box_dilation import FILE, BoxDilation


def read(folders: Sequence[Path]) -> list[BoxDilation]:
    """The dilation_boxes.npz of run folders.

    Raises:
        ConfigError: a run was not measured, is given twice, or differs from the first in more than its seed; or two
            runs have one seed.
    """
    seeds: dict[Any, Path] = {}
    first: dict[str, Any] = {}
    for folder in folders:
        settings = {
            key: value for key, value in identity.settings(read_run(folder)).items() if identity.decides_metrics(key)
        }
        seed = settings.pop("seed")
        first = first or settings
        if settings != first:
            unlike = differences(first, f"in {folders[0]}", settings, f"in {folder}")
            raise ConfigError(f"--with {folder}: {unlike}; the runs must differ in their seed alone")
        if seed in seeds:
            twice = (
                "is given twice" if seeds[seed].resolve() == folder.resolve() else f"has seed {seed}, as {seeds[seed]}"
            )
            raise ConfigError(f"--with {folder} {twice}; the runs must be of different seeds")
        seeds[seed] = folder
    return [_boxes(folder) for folder in folders]


def _boxes(folder: Path) -> BoxDilation:
    boxes = box_dilation.read(folder / FILE)
    if boxes is None:
        raise ConfigError(f"{folder} has no {FILE}; measure it with: dcnlab dilation {folder}")
    return boxes
