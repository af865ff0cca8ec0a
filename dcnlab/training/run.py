"""Runs: `fit` trains and scores, `resume` continues, `evaluate` scores again, `restore` loads a trained network."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from dcnlab.config import outside, validation, value_types
from dcnlab.config.load import load_experiment, load_run, read_run, to_yaml
from dcnlab.config.schema import Config
from dcnlab.io.atomic import write_whole
from dcnlab.training import (
    compilation,
    environment,
    other_tests,
    results,
    resume_checks,
    run_lines,
    scored_images,
    scores,
)
from dcnlab.training.callbacks.layer_hooks import network_of
from dcnlab.training.distributed import slurm_requeue
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.interruption import same_end_on_all_ranks
from dcnlab.training.loggers import console, wandb_file, wandb_start
from dcnlab.training.loggers.metrics_csv import MetricsFile
from dcnlab.training.outcome import FINISHED
from dcnlab.training.parts import Parts, build
from dcnlab.training.preflight import check_labels
from dcnlab.training.restoring import check_while_restoring
from dcnlab.training.resuming import Resumption, resumption_of_fit, resumption_of_resume
from dcnlab.training.run_folder import RunFolder
from dcnlab.training.trained_run import build_for_checkpoint

_LOG = logging.getLogger("dcnlab")
_COURSE = logging.getLogger("dcnlab.run")


def fit(
    config: Config | str | os.PathLike[str],
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Path:
    """Train and score one experiment; an unfinished run in its folder is resumed from its last checkpoint.

    Args:
        config: an experiment, or the path or packaged name of its file. Where it names classes from outside dcnlab, or
            holds them in the place of names, they are imported: the caller wrote it.
        callbacks: of your own, called after dcnlab's. What their `state_dict` returns has to be plain containers.
        loggers: of your own, in addition to those that the experiment names.

    Returns:
        The run folder.

    Raises:
        ConfigError: a value of the config is wrong, it cannot be built, data.train has nothing to learn from, or the
            folder holds a run that cannot be resumed under this config; nothing is changed.
        Interrupted: the run was stopped; results.json says so.
    """
    config = copy.deepcopy(config) if isinstance(config, Config) else load_experiment(os.fspath(config))
    value_types.check_types(config)
    outside.admit(config, None, "the config")
    validation.check(config)
    id_given = "DCNLAB_RUN_ID" in os.environ
    same_command_resumes = id_given or config.id is not None
    try:
        folder = RunFolder.of(config)
        parts = build(config, folder, callbacks=callbacks, loggers=loggers)
        check_labels(parts.data, ("train", "val", "test"))
        with folder.locked_by_rank_0():
            resumption = resumption_of_fit(folder, config)
            wandb_id = folder.wandb_id()
            if resumption is None:
                wandb_id = None if _begin(config, folder) else wandb_id
            elif not resumption.complete:
                _LOG.info(f"{folder} {resumption}")
            elif slurm_requeue.was_requeued():
                _LOG.info(f"{folder} is finished; the requeued job has nothing left to do")
                return folder.path
            else:
                raise folder.finished_error()
            _train(config, parts, folder, resumption, wandb_id, same_command_resumes)
    finally:
        if not id_given:  # the next run of this process gets another ID
            os.environ.pop("DCNLAB_RUN_ID", None)
    return folder.path


def resume(path: Path, overrides: Sequence[str] = (), allow: Sequence[outside.Allowed] = ()) -> Path:
    """Resume a run from its last checkpoint, under its own config; a finished one where it is to train longer.

    Args:
        path: of the run folder.
        overrides: key=value upon its config, of `resume_checks.MAY_CHANGE`, such as `trainer.max_steps=N`.
        allow: classes from outside that may be imported, see `outside.admit`.

    Returns:
        The same path.

    Raises:
        ConfigError: no step is left to train, there is no checkpoint yet, or an override would make it another run.
        Interrupted: the run was stopped again.
    """
    folder = RunFolder(path.resolve())  # `.` has no name
    with folder.locked_by_rank_0():
        resumption = resumption_of_resume(folder, RunFolder(path), overrides, allow)
        config = copy.deepcopy(resumption.config)
        config.out, config.name, config.id = str(folder.path.parents[1]), folder.path.parent.name, folder.path.name
        config.model.backbone.weights = "none"  # the checkpoint holds them
        _train(config, build(config, folder), folder, resumption, folder.wandb_id())
    return path


def evaluate(path: Path, overrides: list[str], allow: Sequence[outside.Allowed] = ()) -> dict[str, float]:
    """Score a run's last checkpoint again; the run folder stays as it is.

    Under another `test.offsets` than the run's, the scores of a finished run are kept in its folder's tests/.

    An earlier release's run without test_images.npz or confusion.json gets them if the scores are those of its
    results.json.

    Args:
        path: of the run folder.
        overrides: key=value upon its config, such as another `data.root`.
        allow: classes from outside that may be imported, see `outside.admit`.

    Returns:
        The metrics, percent.
    """
    config, run_config = load_run(path, overrides, allow), read_run(path)
    tested = copy.deepcopy(config)
    parts, checkpoint, _ = build_for_checkpoint(config, RunFolder(path), overrides)
    check_labels(parts.data, ("test",))
    check_while_restoring(parts.trainer, checkpoint)
    with same_end_on_all_ranks(parts, RunFolder(path), lambda end: None, trains=False):
        metrics = scores.metrics_of(scores.score_test_split(parts, checkpoint))
        if config.test.offsets == run_config.test.offsets:
            scored_images.write_missing(parts, config, RunFolder(path), metrics)
        other_tests.write(parts, run_config, tested, RunFolder(path), metrics)
    scores.warn_of_left_out_classes(scores.classes_in_means(parts))
    scores.verify(metrics, config)
    return metrics


def restore(path: Path, overrides: list[str]) -> tuple[Config, Parts]:
    """Load a run's data, and its network with the weights of its last checkpoint, in evaluation mode on its device.

    One process does this, and test images come at `data.shorter_side`, as in training.

    Args:
        path: of the run folder.
        overrides: key=value upon its config, such as another `data.root`.

    Raises:
        ConfigError: there is no such run, or its data, weights or device are missing or do not fit.
    """
    config = load_run(path, overrides)
    config.trainer.devices, config.trainer.num_nodes = 1, 1
    config.test.shorter_sides, config.test.longer_sides, config.logger.names = None, None, ["csv"]
    parts, _, weights = build_for_checkpoint(config, RunFolder(path), overrides, alone=True)
    parts.task.load_state_dict(weights)
    parts.task.to(parts.trainer.strategy.root_device).eval().requires_grad_(False)
    return config, parts


def _begin(config: Config, folder: RunFolder) -> bool:
    """Make the folder of a new run, on rank 0; whether a diverged run was moved out of it."""
    if not is_rank_0():
        return False
    aside = folder.create()
    if aside is not None:
        _LOG.info(f"{folder} diverged; it is kept as {aside}, and the run begins anew")
    write_whole(folder.config, to_yaml(config))
    return aside is not None


def _train(
    config: Config,
    parts: Parts,
    folder: RunFolder,
    resumption: Resumption | None,
    wandb_id: str | None = None,
    same_command_resumes: bool = True,
) -> None:
    """Train, score and write results.json, however the run ends.

    Args:
        config: of the run.
        parts: built from it.
        folder: of the run.
        resumption: from what to resume; None begins.
        wandb_id: the run's ID on wandb until now.
        same_command_resumes: whether the command, started again by SLURM, finds this run.
    """
    if resumption is not None:
        _prepare_to_resume(config, parts, resumption)
    if is_rank_0():
        folder.remove_temporaries()
        wandb_file.mend(folder.wandb)
    wandb_logger = wandb_start.start(config, folder, wandb_id)
    more_loggers = console.tensorboard_loggers(config, folder.path)
    csv_logger = MetricsFile(folder.metrics, None if resumption is None else resumption.step)
    parts.trainer.loggers = [csv_logger, *([wandb_logger] if wandb_logger else []), *more_loggers, *parts.loggers]
    run_results = results.Results(config, parts, folder, resumption, wandb_logger, same_command_resumes)
    checkpoint = None if resumption is None else resumption.checkpoint
    with same_end_on_all_ranks(parts, folder, run_results.write):
        _tell_start(config, parts, folder)
        run_results.count_network()
        compilation.compile_network(network_of(parts.task), config)
        parts.trainer.fit(parts.task, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
        best = folder.best_checkpoint if folder.best_checkpoint.is_file() else None
        run_results.take_scores(scores.score_test_split(parts, best))
    run_results.write(FINISHED)
    if is_rank_0():
        for line in run_lines.end_lines(config, parts.task, run_results.metrics, str(folder)):
            _COURSE.info(line)


def _tell_start(config: Config, parts: Parts, folder: RunFolder) -> None:
    """Say, on rank 0, what the run is made of."""
    if is_rank_0():
        device, ranks = environment.device_name(parts.trainer.strategy.root_device), parts.trainer.world_size
        for line in run_lines.start_lines(config, parts.data, parts.task, device, ranks, str(folder)):
            _COURSE.info(line)


def _prepare_to_resume(config: Config, parts: Parts, resumption: Resumption) -> None:
    """Check that the checkpoint fits the run, and begin the data where it ended.

    Raises:
        ConfigError: it does not fit.
    """
    checkpoint, content = resumption.checkpoint, resumption.content
    resume_checks.check_fits(content, config, parts.trainer.world_size, checkpoint)
    warning = resume_checks.check_data(content, parts.data.train, checkpoint)
    if warning is not None and is_rank_0():
        _LOG.warning(warning)
    check_while_restoring(parts.trainer, checkpoint)
    parts.data.start = resumption.position
