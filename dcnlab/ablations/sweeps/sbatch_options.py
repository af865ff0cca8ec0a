"""Options of sbatch for a sweep's trials: those that the user states, and those that follow from the trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dcnlab.config.schema import TrainerConfig
from dcnlab.io.errors import ConfigError

_SHAPE = ("nodes", "ntasks_per_node")
"""The options that state the ranks of a trial."""
_OURS = ("array", "output", "error", "job_name", "ntasks", "open_mode", "wrap")
"""Options that users cannot state."""


class SbatchOptions:
    """The options of a sweep's jobs.

    Args:
        texts: `partition=NAME` and the like, as the user states them.

    Raises:
        ConfigError: one is not of this form, or the sweep sets it itself.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._given = dict(_parsed(text) for text in texts)

    @property
    def threads(self) -> int | None:
        """CPU threads of a process, where an option states its cores."""
        cores = str(self._given.get("cpus_per_task", ""))
        return int(cores) if cores.isdigit() else None

    def shape(self, trainer: TrainerConfig) -> tuple[int, int]:
        """Nodes of a trial, and ranks on each.

        Raises:
            ConfigError: an option contradicts the trial's config.
        """
        gpus = str(self._given.get("gpus_per_node", "")).rpartition(":")[2]
        auto = int(gpus) if gpus.isdigit() else 1
        shape = trainer.num_nodes, trainer.devices if isinstance(trainer.devices, int) else auto
        for name, key, wanted in zip(_SHAPE, ("num_nodes", "devices"), shape, strict=True):
            given = self._given.get(name, str(wanted))
            if given != str(wanted):
                option = f"--slurm {name.replace('_', '-')}={given}"
                raise ConfigError(f"{option}, but trials take {wanted}; state it as trainer.{key}={given}")
        return shape

    def flags(self, shape: tuple[int, int], trainers: Sequence[TrainerConfig]) -> dict[str, Any]:
        """The options of an array of jobs; those that the user states come first.

        Args:
            shape: nodes and ranks of its trials.
            trainers: the section `trainer` of each trial.
        """
        # 120 s before the time limit a trial gets SIGUSR1, saves a checkpoint and is requeued.
        flags: dict[str, Any] = {"signal": "USR1@120", "requeue": True, **dict(zip(_SHAPE, shape, strict=True))}
        if any(trainer.accelerator == "gpu" for trainer in trainers):
            flags["gpus_per_node"] = shape[1]
        return flags | self._given


def _parsed(text: str) -> tuple[str, Any]:
    """The name of an option as submitit takes it, and its value; True for one without a value."""
    key, equals, value = text.removeprefix("--").partition("=")
    key = key.replace("-", "_")
    if not key or (equals and not value):
        raise ConfigError(f"--slurm {text}: not of the form key=value, with a key of sbatch's long options")
    if key in _OURS:
        raise ConfigError(f"--slurm {text}: the sweep sets {key.replace('_', '-')} itself")
    return key, value if equals else True
