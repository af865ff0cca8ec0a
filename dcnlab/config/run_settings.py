"""RunSettings: the settings of many runs, where runs that differ in their seed alone are read as one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dcnlab.config import identity
from dcnlab.config.experiment_files import RUN_CONFIG
from dcnlab.config.load import read_run
from dcnlab.io import yaml_file
from dcnlab.io.files import read_bytes

_SEED = re.compile(r"^seed: (\d{1,10})\n", re.MULTILINE)
_NOT_COMPUTED = re.compile(r"^(?:name|out|id): [^\n]*\n|^sweep:[^\n]*\n(?:[ -][^\n]*\n)*", re.MULTILINE)
"""Keys of a config.yaml that `identity.settings` leaves out, at the top level."""


class RunSettings:
    """Reads the settings of runs, see `identity.settings`; a text that it has read before is not parsed again.

    A table of ten seeds has ten files that differ in the seed, the folder and the sweep's record of the seed. Only the
    first is parsed and checked, which takes most of the time of a table over hundreds of runs.
    """

    def __init__(self) -> None:
        self._by_text: dict[str, dict[str, Any]] = {}

    def of(self, folder: Path) -> dict[str, Any]:
        """The settings of a run folder.

        Raises:
            ConfigError: there is no such run, or its config does not fit the schema.
            OSError: the folder may not be looked into.
        """
        text = self._text(folder)
        seeds = [] if "${" in text else _SEED.findall(text)
        if len(seeds) != 1:  # written by hand, perhaps: no short cut
            return identity.settings(read_run(folder))
        rest = _NOT_COMPUTED.sub("", _SEED.sub("", text))
        if rest not in self._by_text:
            self._by_text[rest] = identity.settings(read_run(folder))
        return {**self._by_text[rest], "seed": int(seeds[0])}

    @staticmethod
    def _text(folder: Path) -> str:
        try:
            return read_bytes(folder / RUN_CONFIG, yaml_file.LARGEST).decode()
        except (OSError, ValueError):  # `read_run` says what is wrong with it
            return ""
