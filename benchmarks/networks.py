"""Whole networks, a training step and inference: plain, deformable, and deformable with torchvision's operator.

    python benchmarks/networks.py                                   on the CPU, float32
    python benchmarks/networks.py --device cuda --precision bf16    on a GPU, under autocast

Three networks of each experiment: plain; deformable (the last three 3x3 layers, and RoI pooling where there are RoIs);
and the deformable one with torchvision's operator in its deformable convolutions (RoI pooling stays ours: torchvision
has no deformable one). Offsets are about two pixels, not the zeros of a fresh network. Random weights, random images,
six boxes each. Memory is what one step takes above the network: on a CPU its first, momentum included.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import measure
import memory
import record
import torch
import torchvision
from shared_options import parser_of
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional

from dcnlab.config.load import load_experiment
from dcnlab.data.detection.voc import VOC_CLASSES
from dcnlab.data.segmentation.voc import CLASSES
from dcnlab.models.detector import Detector
from dcnlab.nn import DeformConv2d
from dcnlab.tasks.optim import optimizer_and_schedule
from dcnlab.training.build_network import task_module

KINDS = ("plain", "ours", "torchvision")
EXPERIMENTS = {"deeplab": "segmentation/deeplab_voc", "rfcn": "detection/rfcn_voc"}
OFFSET_PIXELS = 2.0


class TorchvisionLayer(DeformConv2d):
    """Our layer around torchvision's operator, which takes one dtype and knows no autocast of its own kind."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W) at the learned sampling points."""
        offset, mask = self.offsets(input)
        return torchvision.ops.deform_conv2d(
            input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask
        )


def build(name: str, kind: str, backbone: str, device: str) -> nn.Module:
    """The network of an experiment, with offsets that are not zero."""
    words = ["data.root=not-needed", "model.backbone.weights=none", f"model.backbone.name={backbone}"]
    if kind != "plain":
        words += ["model.deform_layers=3", f"model.deform_pooling={str(name == 'rfcn').lower()}"]
    config = load_experiment(EXPERIMENTS[name], words)
    torch.manual_seed(0)
    task: Any = task_module(config, list(VOC_CLASSES if name == "rfcn" else CLASSES))
    for module in task.model.modules():
        if isinstance(module, DeformConv2d) and module.offset_conv.bias is not None:
            nn.init.normal_(module.offset_conv.bias, std=OFFSET_PIXELS)
            if kind == "torchvision":
                module.__class__ = TorchvisionLayer
    return task.model.to(device, memory_format=torch.channels_last)


def make(
    name: str,
    kind: str,
    backbone: str,
    size: tuple[int, int],
    device: str,
    precision: str,
    training: bool,
    small: bool = False,
) -> measure.Work:
    """One step of training, or one image's results; `small` does it in a small network, which runs the same code."""
    network = build(name, kind, "resnet18" if small else backbone, device)
    height, width = (64, 96) if small else size
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(1)).to(device)
    corner = torch.tensor([[0.1, 0.1], [0.3, 0.2], [0.5, 0.5], [0.2, 0.6], [0.6, 0.1], [0.4, 0.3]])
    boxes = torch.cat([corner, corner + 0.35], 1) * torch.tensor([width, height, width, height])
    targets = [{"boxes": boxes.to(device), "labels": torch.arange(1, 7, device=device)}]
    labels = torch.randint(21, (1, height, width), generator=torch.Generator().manual_seed(2)).to(device)
    autocast = partial(torch.autocast, device, torch.bfloat16, enabled=precision == "bf16")
    if not training:
        network.eval()

        @torch.no_grad()
        def infer() -> object:
            with autocast():
                outputs: Any = network([image]) if isinstance(network, Detector) else network(image[None])
            return outputs if isinstance(network, Detector) else outputs.argmax(1)

        return infer
    optim = load_experiment(EXPERIMENTS[name], ["data.root=not-needed"]).optim
    optimizer, _ = optimizer_and_schedule(network, replace(optim, lr=1e-6), 1000)

    def step() -> None:
        torch.manual_seed(3)  # the same proposals are sampled each time
        with autocast():
            if isinstance(network, Detector):
                loss = torch.stack(list(network([image], targets).values())).sum()
            else:
                loss = functional.cross_entropy(network(image[None]).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def run(options: argparse.Namespace, size: tuple[int, int], budget: measure.Budget) -> record.Rows:
    """Measure every network, in training and in inference."""
    rows = record.Rows(options.rows)
    pieces = {f"{name} {kind}": (name, kind) for name in options.networks for kind in options.passes}
    costs = {piece: 3.0 if kind == "training" else 1.0 for piece, (_, kind) in pieces.items()}
    for piece, limit in budget.share(costs):
        name, kind = pieces[piece]
        settings = (options.backbone, size, options.device, options.precision, kind == "training")
        works = [make(name, contender, *settings) for contender in KINDS]
        row: dict[str, Any] = {"network": name, "pass": kind}
        ratios = {"times_plain": ("ours", "plain"), "torchvision_times_plain": ("torchvision", "plain")}
        row |= measure.timed(KINDS, works, options.rounds, options.device, least=0.0, limit=limit / 2, ratios=ratios)
        del works
        row["images_per_second"] = 1e3 / row["ours_ms"]
        if not options.no_memory:
            for contender in KINDS:
                peak = memory.peak_bytes(make, (name, contender, *settings), options.device)
                row[f"{contender}_mib"] = peak / 2**20
        rows.append(row)
        print(f"{piece}: {row['times_plain']:.2f} times the plain network's time", flush=True)
    return rows


def profile(options: argparse.Namespace, size: tuple[int, int]) -> str:
    """Where the time of our deformable networks' training steps goes, by operator."""
    tables = []
    for name in options.networks:
        step = make(name, "ours", options.backbone, size, options.device, options.precision, True)
        step()
        with torch.profiler.profile() as found:
            step()
        key = "self_device_time_total" if options.device == "cuda" else "self_cpu_time_total"
        tables.append(f"{name}\n" + found.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=50))
    return "\n".join(tables)


def main() -> None:
    """Parse, measure, print, write."""
    parser = parser_of(__doc__, 3, "--device", "--no-memory", "--rows")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--networks", nargs="+", choices=tuple(EXPERIMENTS), default=list(EXPERIMENTS))
    passes = ("training", "inference")
    parser.add_argument("--passes", nargs="+", choices=passes, default=list(passes))
    parser.add_argument("--size", metavar="HxW", help="image; 320x480 on a CPU, 608x800 on a GPU")
    parser.add_argument("--profile", action="store_true", help="print where a training step's time goes, and end")
    options = parser.parse_args()
    text = options.size or ("608x800" if options.device == "cuda" else "320x480")
    height, _, width = text.partition("x")
    size = (int(height), int(width))
    if options.profile:
        print(profile(options, size))
        return
    budget = measure.Budget(options.minutes)
    rows = run(options, size, budget)
    print(tabulate([list(row.values()) for row in rows], list(rows[0]), floatfmt=".2f"))
    settings = {"backbone": options.backbone, "size": text, "precision": options.precision, "rounds": options.rounds}
    settings["left_out"] = budget.left_out
    if options.out:
        record.write(options.out, options.device, settings, rows)


if __name__ == "__main__":
    main()
