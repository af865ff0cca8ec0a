"""The cost of one network for one image: parameters, multiply-adds and seconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dcnlab.ablations.analysis import timing
from dcnlab.ablations.analysis.complexity_subjects import Subject
from dcnlab.config.schema import Config
from dcnlab.models.class_aware_rpn import ClassAwareRPN
from dcnlab.models.counting import count_macs, count_parameters
from dcnlab.models.image_batch import pad_images
from dcnlab.models.two_stage import TwoStageDetector
from dcnlab.training.build_network import checked_task_module


def measure(config: Config, subject: Subject, device: str | None, repeats: int) -> dict[str, Any]:
    """Count a network's parameters and multiply-adds, and take its times.

    Args:
        config: of the network.
        subject: its classes and image size.
        device: cpu or cuda to take times on; None takes none.
        repeats: forward passes that the median is of.

    Returns:
        `params`, `params_without_rpn`, `macs`, `proposals`, `network_seconds`, `total_seconds`; None: it has none.
    """
    with torch.device("meta"):  # no values are computed, so any size is counted at once
        network = _network(config, subject.classes)
    params = count_parameters(network)
    two_stage = isinstance(network, TwoStageDetector)
    real = network
    if two_stage or device is not None:
        real = _network(config, subject.classes)
    # On meta tensors there is no autocast; and the pyramid level that a head pools from depends on values.
    counted = real if two_stage else network
    place = "cpu" if two_stage else "meta"
    macs = count_macs(_Counted(counted), torch.zeros(1, 3, *subject.size, device=place))
    times = (None, None) if device is None else timing.seconds(real, subject.size, subject.file_size, device, repeats)
    proposals = network.rpn.settings.proposals if isinstance(network, TwoStageDetector) else None
    return {
        "params": params,
        "params_without_rpn": params - count_parameters(network.rpn) if isinstance(network, TwoStageDetector) else None,
        "macs": macs,
        "proposals": proposals,
        "network_seconds": times[0],
        "total_seconds": times[1],
    }


def _network(config: Config, classes: list[str]) -> nn.Module:
    model: Any = checked_task_module(config, classes).model
    return model.eval()


class _Counted(nn.Module):
    """A network's whole computation for one image; a two-stage detector's head gets the maximum of proposals."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> None:
        network = self.network
        if isinstance(network, ClassAwareRPN):
            network.predict(pad_images(list(images), network.stride).tensors)
        elif isinstance(network, TwoStageDetector):
            maps = network.maps(pad_images(list(images), network.stride).tensors)
            network.propose(maps)
            whole = images.new_tensor([0, 0, images.shape[-1], images.shape[-2]])
            network.classify(maps, [whole.repeat(network.rpn.settings.proposals, 1)])
        else:
            network(images)
