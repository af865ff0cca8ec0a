"""Results: collects network, scores and cost of a run, and writes results.json however the run ends."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from pytorch_lightning.loggers import WandbLogger

from dcnlab.config.load import to_yaml
from dcnlab.config.schema import Config
from dcnlab.io.atomic import write_whole
from dcnlab.models import weights_source
from dcnlab.models.counting import count_macs, count_parameters
from dcnlab.training import confusion_files, environment, own_record, results_file, scored_images
from dcnlab.training.distributed import slurm_requeue
from dcnlab.training.loggers import wandb_run, wandb_start
from dcnlab.training.outcome import End
from dcnlab.training.parts import Parts
from dcnlab.training.resuming import Resumption
from dcnlab.training.run_folder import RunFolder
from dcnlab.training.scores import classes_in_means, metrics_of, verify, warn_of_left_out_classes


class Results:
    """Collects the content of results.json, and writes it.

    Args:
        config: of the run.
        parts: of the run.
        folder: of the run. A resumed run's config.yaml and results.json stay as they are until the end.
        resumption: the checkpoint that the run resumes from; None for a new run.
        wandb_logger: on rank 0, where the run is mirrored to wandb.
        same_command_resumes: whether the command, started again by SLURM, finds this run.
    """

    def __init__(
        self,
        config: Config,
        parts: Parts,
        folder: RunFolder,
        resumption: Resumption | None,
        wandb_logger: WandbLogger | None,
        same_command_resumes: bool,
    ) -> None:
        self._config, self._parts, self._folder, self._resumption = config, parts, folder, resumption
        self._wandb_logger, self._same_command_resumes = wandb_logger, same_command_resumes
        self._content: dict[str, Any] = {
            "schema": results_file.SCHEMA,
            "name": config.name,
            "status": "interrupted",
            "end": "interrupted",
            "seed": config.seed,
            "parameters": config.sweep,
            "metrics": {},
            "model": {},
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Of the test, percent."""
        metrics: dict[str, float] = self._content["metrics"]
        return metrics

    def count_network(self) -> None:
        """Count parameters and multiply-adds, on rank 0."""
        if self._parts.trainer.is_global_zero:
            task = self._parts.task
            weights = self._weights()
            self._parts.saving.weights = weights
            counts = {"params": count_parameters(task), "macs": _macs(task, self._parts.data)}
            self._content["model"] = {**counts, "weights": weights}

    def _weights(self) -> dict[str, str | None] | None:
        """Where the backbone's weights come from; of a resumed run, where those that it began with came from."""
        if self._resumption is None:
            backbone = self._config.model.backbone
            return weights_source.source(backbone.name, backbone.weights)
        recorded = (self._resumption.results or {}).get("model", {}).get("weights")
        recorded = recorded or self._resumption.content["dcnlab"].get("weights")
        return recorded if results_file.is_source(recorded) else None

    def take_scores(self, scores: dict[str, float]) -> None:
        """Take the scores of the test, and write what they were made of, detections and pictures.

        Raises:
            Diverged: a score is not finite.
        """
        self._content["metrics"] = metrics_of(scores)
        self._content |= classes_in_means(self._parts)
        self._content |= own_record.record(self._parts.data)
        if outcome := verify(self._content["metrics"], self._config):
            self._content["expected"] = outcome
        warn_of_left_out_classes(self._content)
        if self._parts.trainer.is_global_zero:
            self._write_detections()
            scored_images.write(self._parts, self._config, self._folder)
            self._write_pictures()

    def write(self, end: End) -> None:
        """Write results.json on rank 0, close the mirror, and requeue a SLURM job whose time was up."""
        trainer, cost = self._parts.trainer, self._parts.cost
        cost.stop()
        self._content.update(status=end.status, end=end.kind)
        if end.reason:
            self._content["reason"] = end.reason
        if not trainer.is_global_zero:
            return
        device = trainer.strategy.root_device
        self._content["cost"] = cost.summary(device)
        self._content["environment"] = environment.describe(trainer.world_size, device)
        self._content["wandb"] = _wandb_ids(self._wandb_logger)
        if self._resumption is None:
            self._folder.write_results(self._content)
        elif not self._resumption.keeps_results(end, trainer.global_step):
            if resumed := self._resumption.record():
                self._content["resumed"] = resumed
            write_whole(self._folder.config, to_yaml(self._resumption.config))
            self._folder.write_results(self._content)
        self._close_mirror_and_requeue(end)

    def _close_mirror_and_requeue(self, end: End) -> None:
        """Close the mirror, then requeue, which ends this process; a server that does not answer waits until then."""
        run = None if self._wandb_logger is None else self._wandb_logger.experiment
        unreachable = None if run is None or run.offline else wandb_start.unreachable()
        requeue = end.kind == "time limit"
        if requeue and unreachable is not None:
            slurm_requeue.requeue(self._same_command_resumes, self._parts.saving.progressed)
        if run is not None:
            if end.preempted:
                run.mark_preempting()
            wandb_run.finish(run, self._config, self._folder, self._content, unreachable)
        if requeue and unreachable is None:
            slurm_requeue.requeue(self._same_command_resumes, self._parts.saving.progressed)

    def _write_detections(self) -> None:
        """Write a detector's boxes in COCO's result form, under the data set's own image and class numbers."""
        detections = getattr(self._parts.task, "detections", None)
        if detections is not None:
            write_whole(self._folder.detections, json.dumps(self._parts.data.test.own_names(detections)))

    def _write_pictures(self) -> None:
        pictures = {str(at): picture for at, picture in enumerate(getattr(self._parts.task, "pictures", []))}
        for name, picture in pictures.items():
            self._folder.pictures.mkdir(exist_ok=True)
            picture.save(self._folder.pictures / f"{name}.png")
        confusion = confusion_files.write(self._parts.task, self._folder)
        if confusion is not None:
            pictures["confusion"] = confusion
        if self._wandb_logger is not None:
            for name, picture in pictures.items():  # one at a time: wandb warns of lists whose pictures differ in size
                self._wandb_logger.log_image(f"pictures/{name}", [picture])


def _macs(task: Any, data: Any) -> int:
    """Multiply-adds for the first test image, on shapes alone; detectors compute, as their work depends on values."""
    image = data.test[0][0][None]
    if hasattr(task, "detections"):
        return count_macs(task, image)
    return count_macs(copy.deepcopy(task).to("meta"), image.to("meta"))


def _wandb_ids(logger: WandbLogger | None) -> dict[str, str | None]:
    if logger is None:
        return {"id": None, "sweep": None}
    return {"id": logger.experiment.id, "sweep": logger.experiment.sweep_id or os.environ.get(wandb_run.SWEEP)}
