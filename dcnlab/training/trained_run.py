"""Builds the parts of a trained run around its checkpoint, for another test or an analysis."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from dcnlab.config.load import read_run
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.training import checkpoint_file, own_record
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.loading import check_same_network
from dcnlab.training.parts import Parts, build
from dcnlab.training.run_folder import RunFolder

_LOG = logging.getLogger("dcnlab")


def build_for_checkpoint(
    config: Config, folder: RunFolder, overrides: list[str], alone: bool = False
) -> tuple[Parts, Path, dict[str, Any]]:
    """The parts of a run that is not trained, its checkpoint, and the weights in it.

    Raises:
        ConfigError: the network is another one than the checkpoint's, or `data.fold` another than the run's.
    """
    fold = read_run(folder.path).data.fold
    if config.data.fold != fold:
        raise ConfigError(
            f"data.fold is {config.data.fold or 'null'}, whose test images may be among those that the run was trained "
            f"on; it must be {fold or 'null'}, as in {folder.config}"
        )
    config.model.backbone.weights = "none"  # the checkpoint holds them
    config.trainer.effective_batch = None  # any number of ranks can score
    checkpoint, content = checkpoint_file.scored(folder)
    weights = content["state_dict"]
    recorded = folder.read_results() if config.data.name == "own" else None
    own_record.take_layout(config, recorded)
    parts = build(config, folder, trains=False, alone=alone)
    changed = own_record.difference(parts.data, recorded)
    if changed is not None and is_rank_0():
        _LOG.warning(f"warning: {changed}")
    check_same_network(parts.task.state_dict(), weights, checkpoint, overrides)
    return parts, checkpoint, weights
