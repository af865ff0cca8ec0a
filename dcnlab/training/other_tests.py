"""Keeps a finished run's scores under another `test.offsets`, next to its results.json."""

from __future__ import annotations

import json
import logging

from dcnlab.config import identity
from dcnlab.config.schema import Config
from dcnlab.io.atomic import write_whole
from dcnlab.io.text import one_line
from dcnlab.training import environment, results_file, scored_images
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.parts import Parts
from dcnlab.training.run_folder import OFFSETS, RunFolder

_TEST_KEYS = ("data.", "model.", "test.", "trainer.precision", "trainer.limit_test_batches", "trainer.fast_dev_run")
_NOT_COMPARED = (OFFSETS, "data.batch_size", "model.backbone.weights")
"""Keys that leave the scores of a test as they are, and the one that is kept."""


def differing(run: Config, config: Config) -> list[str]:
    """The keys, but `test.offsets`, in which a test differs from the run's own."""
    ours, theirs = identity.settings(config), identity.settings(run)
    return [
        key
        for key in ours
        if key.startswith(_TEST_KEYS) and key not in _NOT_COMPARED and identity.decides_metrics(key)
        if ours[key] != theirs.get(key)
    ]


def write(parts: Parts, run: Config, config: Config, folder: RunFolder, metrics: dict[str, float]) -> None:
    """Keep the scores of the test that was just made, and what they were made of, on rank 0.

    Nothing is kept where `test.offsets` is the run's, where other keys of the test differ, or the run is not finished.

    Args:
        parts: of the test.
        run: the run's config.
        config: of the test.
        folder: of the run.
        metrics: of the test, percent.
    """
    if config.test.offsets == run.test.offsets or not is_rank_0():
        return
    log, others = logging.getLogger("dcnlab"), differing(run, config)
    results = folder.read_results()
    if others or results is None or results["status"] != "finished":
        reason = f"{others[0]} is not the run's" if others else "the run is not finished"
        log.warning(f"note: the scores under test.offsets {config.test.offsets} are not kept: {reason}")
        return
    target = RunFolder(folder.test_under(config.test.offsets))
    try:
        target.path.mkdir(parents=True, exist_ok=True)
        scored_images.write(parts, config, target)
        device = parts.trainer.strategy.root_device
        content = {
            "schema": results_file.SCHEMA,
            "settings": {OFFSETS: config.test.offsets},
            "metrics": metrics,
            "environment": environment.describe(parts.trainer.world_size, device),
        }
        write_whole(target.results, json.dumps(content, indent=2, allow_nan=False) + "\n")
    except OSError as error:  # the folder may be another user's
        log.warning(f"note: {target} is not written: {one_line(error)}")
