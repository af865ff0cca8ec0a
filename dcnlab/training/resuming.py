"""How a run is resumed: from which checkpoint, under which config, and what results.json records of it."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcnlab.config import identity, outside
from dcnlab.config.keys import flatten
from dcnlab.config.load import load_run, read_run
from dcnlab.config.overrides import parse_override
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.training import checkpoint_file, results_file, resume_checks
from dcnlab.training.outcome import FINISHED, End
from dcnlab.training.run_folder import RunFolder


@dataclass(frozen=True)
class Resumption:
    """A checkpoint to resume from, and the changes that resuming makes in the run folder."""

    config: Config
    """For config.yaml, once the run has ended."""
    changed: dict[str, Any]
    """Keys that the command line changes, with their new values."""
    old_values: dict[str, Any]
    """Their old values."""
    results: dict[str, Any] | None
    """Content of results.json until now."""
    checkpoint: Path
    content: dict[str, Any]
    """`global_step` and `dcnlab` of the checkpoint."""
    complete: bool
    """Whether the run is finished and no step is left to train."""

    @property
    def step(self) -> int:
        """Steps of the optimizer until the checkpoint."""
        return int(self.content["global_step"])

    @property
    def position(self) -> tuple[int, int]:
        """Finished epochs, and trained batches of the next one."""
        return self.content["dcnlab"]["pass"], self.content["dcnlab"]["batches"]

    def __str__(self) -> str:
        if self.results is None:
            before = "was killed"
        else:
            names = {"failed": "failed", "interrupted": "was interrupted", "finished": "was finished"}
            before = names[self.results["status"]]
        values = [f"{key}={value} (was {self.old_values[key]})" for key, value in self.changed.items()]
        return f"{before}; resuming from step {self.step}" + (f" with {', '.join(values)}" if values else "")

    def keeps_results(self, end: End, step: int) -> bool:
        """Whether the results of a finished run stay, because it stopped before a step beyond them."""
        finished = self.results is not None and self.results["status"] == "finished"
        return end != FINISHED and finished and step <= self.step

    def record(self) -> list[dict[str, Any]]:
        """The `resumed` of results.json: for each time the step, the changes, and the metrics until then."""
        recorded = (self.results or {}).get("resumed")
        earlier = list(recorded) if isinstance(recorded, list) else []
        if not self.changed:
            return earlier
        metrics = self.results["metrics"] if self.results is not None else {}
        return [*earlier, {"step": self.step, "changed": self.changed, "metrics": metrics}]


def resumption_of_fit(folder: RunFolder, config: Config) -> Resumption | None:
    """How `fit` resumes the run in its folder; None where it begins: no checkpoint, or a diverged run.

    Every rank decides for itself, while rank 0 may be emptying the folder for a new run. It removes the checkpoints
    first, so the other ranks begin a new run too.

    Raises:
        ConfigError: the run cannot be resumed under this config, or cannot be read.
    """
    if not folder.config.is_file() or results_file.diverged(folder.read_results()) or not folder.checkpoints():
        return None

    def new_config(before: Config, length: list[str]) -> Config:
        after = copy.deepcopy(config)
        before.out, before.name, before.id = after.out, after.name, after.id  # however the folder's path is written
        values = dict(flatten(asdict(after)))
        recorded = {key: values.get(key, value) for key, value in before.sweep.items()}
        before.sweep = after.sweep = recorded | after.sweep
        return after

    return _resumption(folder, folder, new_config)


def resumption_of_resume(
    folder: RunFolder, shown: RunFolder, overrides: Sequence[str], allow: Sequence[outside.Allowed] = ()
) -> Resumption:
    """How `resume` continues a run under its own config.

    Args:
        folder: of the run.
        shown: the same, as the user wrote it.
        overrides: key=value upon the config.
        allow: classes from outside that may be imported, see `outside.admit`.

    Raises:
        ConfigError: it cannot be resumed so, or no step is left.
    """

    def new_config(before: Config, length: list[str]) -> Config:
        after = load_run(folder.path, [*length, *overrides], allow, trains=True)
        values = dict(flatten(dict(map(parse_override, overrides))))
        after.sweep = {key: values.get(key, value) for key, value in after.sweep.items()}
        return after

    resumption = _resumption(folder, shown, new_config)
    if resumption.complete:
        raise ConfigError(
            f"{shown} is finished; there is nothing to resume. More training: dcnlab resume "
            f"{shlex.quote(str(shown))} {_twice_as_long(resumption.config)}"
        )
    return resumption


def _resumption(folder: RunFolder, shown: RunFolder, new_config: Callable[[Config, list[str]], Config]) -> Resumption:
    """How a run is resumed.

    Args:
        folder: of the run.
        shown: the same, for messages.
        new_config: from the run's config, and the length of a longer training as key=value, the config to resume under.

    Raises:
        ConfigError: the run cannot be resumed under that config; names the key.
    """
    before, results = read_run(folder.path), folder.read_results()
    checkpoint, content = checkpoint_file.newest(folder)
    checkpoint_file.check_trainable(content, checkpoint)
    length = _unrecorded_length(before, content)
    after = new_config(before, length)
    changed = resume_checks.check_changes(before, after, shown)
    left = resume_checks.leaves_training(content, after, shown)
    finished = results is not None and results["status"] == "finished"
    values = dict(flatten(asdict(before)))
    return Resumption(
        config=after,
        changed=changed,
        old_values={key: values.get(key) for key in changed},
        results=results,
        checkpoint=checkpoint,
        content={key: content[key] for key in ("global_step", "dcnlab")},  # without the weights, which Lightning loads
        complete=finished and not left and not length,
    )


def _unrecorded_length(config: Config, content: dict[str, Any]) -> list[str]:
    """The length of a longer training that was killed, as key=value; its checkpoint has it, its config.yaml not yet."""
    settings = identity.settings(config)
    recorded = resume_checks.recorded_length(content)
    return [f"{key}={'null' if value is None else value}" for key, value in recorded.items() if value != settings[key]]


def _twice_as_long(config: Config) -> str:
    """The key=value that double the length of a training."""
    run = config.trainer
    words = [f"trainer.max_steps={2 * run.max_steps}"] if run.max_steps is not None else []
    if run.max_epochs is not None:
        words.append(f"trainer.max_epochs={2 * run.max_epochs}")
    return " ".join(words)
