"""CacheFeatures: keeps the maps of a run's frozen backbone on disk while it trains and is scored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from dcnlab.models.feature_cache import FeatureCache
from dcnlab.training.callbacks.layer_hooks import network_of

_LOG = logging.getLogger("dcnlab")


class CacheFeatures(pl.Callback):
    """Gives a network's `TopStage` a `FeatureCache` once its weights are there and on their device.

    Args:
        folder: for the maps of all runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, and say where the maps are."""
        cache = self._begin(pl_module)
        if trainer.is_global_zero:
            count = sum(1 for _ in cache.folder.glob("*.npy"))
            _LOG.info(f"the frozen backbone's maps are kept in {cache.folder}; {count} are there")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, where nothing was trained before."""
        self._begin(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, with the weights that are tested."""
        self._begin(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """End: the network computes its maps again."""
        _top_stage(pl_module).cache = None

    def _begin(self, task: pl.LightningModule) -> FeatureCache:
        stage = _top_stage(task)
        if stage.cache is None:
            stage.cache = FeatureCache(self.folder, stage.trunk, "res4")
        return stage.cache


def _top_stage(task: pl.LightningModule) -> Any:
    return network_of(task).backbone
