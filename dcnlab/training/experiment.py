"""One run: config, then data, task and trainer, then the run folder with results.json."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcnlab.config import identity
from dcnlab.config.keys import flatten
from dcnlab.config.load import load_run, to_yaml
from dcnlab.config.overrides import parse_override
from dcnlab.config.schema import Config
from dcnlab.data import census
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.training import checkpoint_file, environment, run_folder
from dcnlab.training.assembly import Parts, build
from dcnlab.training.callbacks.cost import macs, parameters
from dcnlab.training.distributed import slurm_requeue
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.interruption import same_end_on_all_ranks
from dcnlab.training.loggers import console, wandb_run
from dcnlab.training.loggers.metrics_csv import MetricsFile
from dcnlab.training.outcome import FINISHED, Diverged, End


def fit(config: Config) -> Path:
    """Train and score one experiment; an earlier run in its folder goes on where it stopped, as `resume` decides.

    Returns:
        The run folder.

    Raises:
        ConfigError: what the config asks for cannot be built, data.train has nothing to learn from, or the folder
            holds a run that cannot go on under this config; nothing is changed.
        Interrupted: the run was stopped; results.json says so.
    """
    given = "DCNLAB_RUN_ID" in os.environ
    named = given or config.id is not None
    try:
        folder = run_folder.folder_of(config)
        parts = build(config, folder)
        _count_classes(parts, ("train", "val", "test"))
        with _sole_user(folder):
            going_on = _left_in(folder, config)
            if going_on is None:
                if is_rank_0():
                    _begin(config, folder)
            elif not going_on.complete:
                logging.getLogger("dcnlab").info(f"{folder} {going_on}")
            elif slurm_requeue.was_requeued():
                logging.getLogger("dcnlab").info(f"{folder} is finished; the job that is back has nothing left to do")
                return folder
            else:
                raise run_folder.is_finished(folder)
            _run(config, parts, folder, comes_back=named, going_on=going_on)
    finally:
        if not given:  # the next run of this process has an ID of its own
            os.environ.pop("DCNLAB_RUN_ID", None)
    return folder


def resume(folder: Path, overrides: Sequence[str] = ()) -> Path:
    """Go on with a run from its last checkpoint, under its own config; a finished one where it is to train longer.

    Args:
        folder: the run folder.
        overrides: key=value upon its config, of `checkpoints.MAY_CHANGE`, such as `trainer.max_steps=N`.

    Raises:
        ConfigError: nothing of the training is left, there is no checkpoint yet, or an override would break the run.
        Interrupted: the run was stopped again.
    """
    named, folder = folder, folder.resolve()  # `.` has no name
    with _sole_user(folder):

        def wanted(before: Config, length: list[str]) -> Config:
            after = load_run(folder, [*length, *overrides])
            _note_parameters(after, overrides)
            return after

        going_on = _decide(folder, named, wanted)
        after = going_on.config
        if going_on.complete:
            raise ConfigError(
                f"{named} is finished; there is nothing to resume. More training: dcnlab resume "
                f"{shlex.quote(str(named))} {_longer(after)}"
            )
        config = copy.deepcopy(after)
        config.out, config.name, config.id = str(folder.parent.parent), folder.parent.name, folder.name
        config.model.backbone.weights = "none"  # the checkpoint brings them
        _run(config, build(config, folder), folder, going_on=going_on)
    return named


def _begin(config: Config, folder: Path) -> None:
    """Make the folder of a new run."""
    aside = run_folder.create(folder)
    if aside is not None:
        logging.getLogger("dcnlab").info(f"{folder} diverged; it is kept as {aside}, and the run begins anew")
    run_folder.write_whole(folder / "config.yaml", to_yaml(config))


def _left_in(folder: Path, config: Config) -> _GoingOn | None:
    """How a new `fit` goes on with what its folder holds; None where it begins: no checkpoint, or a diverged run.

    Every rank of the run decides for itself, and rank 0 changes the folder meanwhile only where a run begins: it takes
    the checkpoint away first, without which the others begin too.

    Raises:
        ConfigError: the run there cannot go on under this config, or cannot be read.
    """
    if not (folder / "config.yaml").is_file() or run_folder.diverged(run_folder.read_results(folder)):
        return None
    if not checkpoint_file.paths_in(folder):
        return None

    def wanted(before: Config, length: list[str]) -> Config:
        after = copy.deepcopy(config)
        before.out, before.name, before.id = after.out, after.name, after.id  # however the folder's path is written
        used = dict(flatten(asdict(after)))
        recorded = {key: used.get(key, value) for key, value in before.sweep.items()}
        before.sweep = after.sweep = recorded | after.sweep
        return after

    return _decide(folder, folder, wanted)


def _decide(folder: Path, named: Path, wanted: Callable[[Config, list[str]], Config]) -> _GoingOn:
    """How a run goes on, for `fit` and `resume` alike.

    Args:
        folder: of the run.
        named: the same, as messages name it.
        wanted: of its own config, and of the length of a longer training as key=value, the config to go on under.

    Raises:
        ConfigError: it cannot go on under that config; names the key.
    """
    before, results = load_run(folder), run_folder.read_results(folder)
    checkpoint, kept = checkpoint_file.newest(folder)
    checkpoint_file.check_trainable(kept, checkpoint)
    length = _unrecorded_length(before, kept)
    after = wanted(before, length)
    changed = checkpoint_file.check_changes(before, after, named)
    finished = results is not None and results["status"] == "finished"
    complete = not checkpoint_file.goes_beyond(kept, after, named) and finished and not length
    old = dict(flatten(asdict(before)))
    about: dict[str, Any] = {key: kept[key] for key in ("global_step", "dcnlab")}  # the weights are not held twice
    return _GoingOn(after, changed, {key: old.get(key) for key in changed}, results, checkpoint, about, complete)


def _unrecorded_length(config: Config, kept: dict[str, Any]) -> list[str]:
    """As key=value, the length of a longer training that was killed: its checkpoint has it, its config.yaml not yet."""
    own = identity.settings(config)
    length = {key: value for key, value in checkpoint_file.recorded_length(kept).items() if value != own[key]}
    return [f"{key}={'null' if value is None else value}" for key, value in length.items()]


def _note_parameters(config: Config, overrides: Sequence[str]) -> None:
    """Record a sweep's parameter that the command line overrules as it is used."""
    used = dict(flatten(dict(map(parse_override, overrides))))
    config.sweep = {key: used.get(key, value) for key, value in config.sweep.items()}


def _longer(config: Config) -> str:
    """The key=value by which a finished training goes on, of twice as many steps or passes."""
    run = config.trainer
    words = [f"trainer.max_steps={2 * run.max_steps}"] if run.max_steps is not None else []
    if run.max_epochs is not None:
        words.append(f"trainer.max_epochs={2 * run.max_epochs}")
    return " ".join(words)


@dataclass(frozen=True)
class _GoingOn:
    """From where a run goes on, and what that changes in its folder."""

    config: Config
    """As config.yaml is to have it."""
    changed: dict[str, Any]
    """Keys that the command line changed, with their new values."""
    was: dict[str, Any]
    """Their old values."""
    results: dict[str, Any] | None
    """The folder's results.json until now."""
    checkpoint: Path
    kept: dict[str, Any]
    """Of the checkpoint, its step and what it says of its training."""
    complete: bool
    """Whether the run is finished and nothing is left to train."""

    def __str__(self) -> str:
        if self.results is None:
            how = "was killed"
        else:
            how = {"failed": "failed", "interrupted": "was interrupted"}.get(self.results["status"], "was finished")
        values = [f"{key}={value} (was {self.was[key]})" for key, value in self.changed.items()]
        return f"{how}; going on from step {self.kept['global_step']}" + "".join(
            f"{', ' if at else ' with '}{value}" for at, value in enumerate(values)
        )

    def in_vain(self, step: int) -> bool:
        """Whether a finished run ends at `step` with nothing learnt, so that its results still hold."""
        return self.results is not None and self.results["status"] == "finished" and step <= self.kept["global_step"]

    def record(self) -> list[dict[str, Any]]:
        """The `resumed` of results.json: for each time, from which step, what changed, and the metrics until then."""
        before = (self.results or {}).get("resumed")
        earlier = list(before) if isinstance(before, list) else []
        if not self.changed:
            return earlier
        metrics = self.results["metrics"] if self.results is not None else {}
        return [*earlier, {"step": self.kept["global_step"], "changed": self.changed, "metrics": metrics}]


def evaluate(folder: Path, overrides: list[str]) -> dict[str, float]:
    """Score a run's last checkpoint again; the run folder stays as it is.

    Args:
        folder: the run folder.
        overrides: key=value upon its config, such as another `data.root`.

    Returns:
        The metrics, percent.
    """
    parts, checkpoint, _ = _trained(load_run(folder, overrides), folder, overrides)
    _count_classes(parts, ("test",))
    checkpoint_file.refuse_what_does_not_fit(parts.trainer, checkpoint)
    with same_end_on_all_ranks(parts, folder, lambda end: None):
        metrics = _metrics(_test(parts, checkpoint))
    _say_classes(_covered(parts))
    return metrics


def _count_classes(parts: Parts, splits: Sequence[str]) -> None:
    """Warn of the classes that are in no label, once for all processes.

    Raises:
        ConfigError: the training split has nothing to learn from.
    """
    counted = {}
    for name in splits:
        split = getattr(parts.data, name)
        if hasattr(split, "census"):
            counted[f"data.{name}"] = split.census()
    train = counted.get("data.train")
    if train is not None and train.empty:
        raise ConfigError(f"data.train has {train.nothing}; training needs a split with labels")
    if is_rank_0():
        for line in census.warnings_of(counted):
            logging.getLogger("dcnlab").warning(line)


def _covered(parts: Parts) -> dict[str, Any]:
    """What `results.json` says of the classes that the metrics are over; nothing where a task has no such means."""
    over = getattr(parts.task, "metrics_over", None)
    return {"metrics_over": over} if over else {}


def _say_classes(covered: dict[str, Any]) -> None:
    text = run_folder.means_over(covered)
    if text is not None and is_rank_0():
        logging.getLogger("dcnlab").warning(f"note: {text}")


def restore(folder: Path, overrides: list[str]) -> tuple[Config, Parts]:
    """A run's data, and its network with the weights of its last checkpoint, in evaluation mode on its device.

    What looks at a network is one process, and test images come to it at `data.shorter_side`, as in training.

    Args:
        folder: the run folder.
        overrides: key=value upon its config, such as another `data.root`.

    Raises:
        ConfigError: there is no such run, or its data, weights or device are not there or do not fit.
    """
    config = load_run(folder, overrides)
    config.trainer.devices, config.trainer.num_nodes = 1, 1
    config.test.shorter_sides, config.logger.wandb = None, False
    parts, _, weights = _trained(config, folder, overrides, alone=True)
    parts.task.load_state_dict(weights)
    parts.task.to(parts.trainer.strategy.root_device).eval().requires_grad_(False)
    return config, parts


def _trained(
    config: Config, folder: Path, overrides: list[str], alone: bool = False
) -> tuple[Parts, Path, dict[str, Any]]:
    """What a run's config stands for, its last checkpoint, and the weights in it, which fit the network."""
    config.model.backbone.weights = "none"  # the checkpoint brings them
    config.trainer.effective_batch = None  # any number of processes can score
    checkpoint, whole = checkpoint_file.newest(folder)
    kept = whole["state_dict"]
    parts = build(config, folder, trains=False, alone=alone)
    own = parts.task.state_dict()
    odd = [key for key in {**own, **kept} if key not in own or key not in kept or own[key].shape != kept[key].shape]
    if odd:
        raise ConfigError(
            f"{' '.join(overrides)} asks for another network than {checkpoint} holds: {odd[0]} and {len(odd) - 1} more "
            "differ; classes and model must stay as they were trained"
        )
    return parts, checkpoint, kept


def _run(
    config: Config,
    parts: Parts,
    folder: Path,
    comes_back: bool = True,
    going_on: _GoingOn | None = None,
) -> None:
    """Train, score and write results.json, whatever happens.

    Args:
        config: of the run.
        parts: what it stands for.
        folder: of the run.
        comes_back: whether the same command goes on with this very run.
        going_on: from where, and what that changes; the folder keeps its old config.yaml and results.json until the
            end. None begins.
    """
    trainer, task, data = parts.trainer, parts.task, parts.data
    step = checkpoint = None
    if going_on is not None:
        checkpoint, kept = going_on.checkpoint, going_on.kept
        checkpoint_file.check_fits(kept, config, trainer.world_size, checkpoint)
        changed = checkpoint_file.check_data(kept, data.train, checkpoint)
        if changed is not None and is_rank_0():
            logging.getLogger("dcnlab").warning(changed)
        checkpoint_file.refuse_what_does_not_fit(trainer, checkpoint)
        step, data.start = kept["global_step"], (kept["dcnlab"]["pass"], kept["dcnlab"]["batches"])
    if is_rank_0():
        run_folder.remove_temporaries(folder)
    wandb_logger = console.wandb_logger(config, folder)
    trainer.loggers = [MetricsFile(folder / "metrics.csv", step), *([wandb_logger] if wandb_logger else [])]
    results: dict[str, Any] = {
        "schema": run_folder.SCHEMA,
        "name": config.name,
        "status": "interrupted",
        "end": "interrupted",
        "seed": config.seed,
        "parameters": config.sweep,
        "metrics": {},
        "model": {},
    }

    def write(end: End) -> None:
        parts.cost.stop()
        results.update(status=end.status, end=end.kind)
        if end.reason:
            results["reason"] = end.reason
        if trainer.is_global_zero:
            device = trainer.strategy.root_device
            results["cost"] = parts.cost.summary(device)
            results["environment"] = environment.describe(trainer.world_size, device)
            results["wandb"] = _wandb_ids(wandb_logger)
            if going_on is None:
                run_folder.write_results(folder, results)
            elif end == FINISHED or not going_on.in_vain(trainer.global_step):
                if resumed := going_on.record():
                    results["resumed"] = resumed
                run_folder.write_whole(folder / "config.yaml", to_yaml(going_on.config))
                run_folder.write_results(folder, results)
            if wandb_logger is not None:
                wandb_run.finish(wandb_logger.experiment, config, folder, results)
            if end.kind == "time limit":
                slurm_requeue.requeue(comes_back, parts.saving.got_on)

    with same_end_on_all_ranks(parts, folder, write):
        if trainer.is_global_zero:
            results["model"] = {"params": parameters(task), "macs": _macs(task, data)}
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        results["metrics"] = _metrics(_test(parts))
        results |= _covered(parts)
        _say_classes(results)
        _keep_findings(parts, folder, wandb_logger)
    write(FINISHED)


def _test(parts: Parts, checkpoint: Path | None = None) -> dict[str, float]:
    scores = parts.trainer.test(
        parts.task, datamodule=parts.data, ckpt_path=checkpoint, verbose=False, weights_only=True
    )
    return dict(scores[0])


def _metrics(scores: dict[str, float]) -> dict[str, float]:
    """Test scores under their bare names: `test/top1` is `top1`.

    Raises:
        Diverged: a score is not a number, so the training went wrong.
    """
    for key, value in scores.items():
        if not math.isfinite(value):
            raise Diverged(f"the training diverged: {key} is {value}; a lower optim.lr may help")
    return {key.removeprefix("test/"): value for key, value in scores.items()}


def _keep_findings(parts: Parts, folder: Path, wandb_logger: Any) -> None:
    """Write what the test found: FOLDER/pictures, mirrored, and FOLDER/detections.json in COCO's result form."""
    if not parts.trainer.is_global_zero:
        return
    if hasattr(parts.task, "detections"):
        found = parts.data.test.own_names(parts.task.detections)
        run_folder.write_whole(folder / "detections.json", json.dumps(found))
    pictures = getattr(parts.task, "pictures", [])
    for number, picture in enumerate(pictures):
        (folder / "pictures").mkdir(exist_ok=True)
        picture.save(folder / "pictures" / f"{number}.png")
        if wandb_logger is not None:  # one at a time: wandb warns of lists whose pictures differ in size
            wandb_logger.log_image(f"pictures/{number}", [picture])


def _macs(task: Any, data: Any) -> int:
    """Multiply-adds for the first test image: without arithmetic, but in detectors, whose course depends on numbers."""
    image = data.test[0][0][None]
    if hasattr(task, "detections"):
        return macs(task, image)
    return macs(copy.deepcopy(task).to("meta"), image.to("meta"))


@contextlib.contextmanager
def reading_data() -> Iterator[None]:
    """Turn a data set's complaint of a file into a ConfigError, for code that takes images."""
    try:
        yield
    except DataError as error:
        raise ConfigError(str(error)) from error


def _wandb_ids(logger: Any) -> dict[str, str | None]:
    if logger is None:
        return {"id": None, "sweep": None}
    return {"id": logger.experiment.id, "sweep": logger.experiment.sweep_id}


@contextlib.contextmanager
def _sole_user(folder: Path) -> Iterator[None]:
    """The first of the run's processes locks the folder for all of them."""
    with run_folder.lock(folder / ".lock") if is_rank_0() else contextlib.nullcontext():
        yield
