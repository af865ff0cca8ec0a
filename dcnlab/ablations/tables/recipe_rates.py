"""The table of the learning rates of all the paper's experiments, in one form."""

from __future__ import annotations

from pathlib import Path

from dcnlab.ablations.rates import Rates, rates
from dcnlab.ablations.recipe import load
from dcnlab.config import packaged
from dcnlab.config.schema import Config, OptimConfig, TrainerConfig

DETECTRON2 = Config(
    name="mask_rcnn_R_50_FPN_3x_dconv_c3-c5",
    optim=OptimConfig(lr=0.02, weight_decay=1e-4, milestones=[210_000.0, 250_000.0], warmup=1000),
    trainer=TrainerConfig(max_steps=270_000, effective_batch=16),
)
"""The rates of detectron2's deformable experiment of this name: on the mean of 16 images."""
HEADER = ["recipe", "experiment", "rate on the mean", "rate per image", "images", "sum of rates", "decay on the mean"]


def table() -> list[list[str]]:
    """Rows under `HEADER`: of the paper's files, the authors', detectron2's, and ours."""
    return [[kind, config.name, *_cells(rates(config))] for kind, config in _configs()]


def _configs() -> list[tuple[str, Config]]:
    kinds: dict[str, list[Config]] = {"paper": [], "authors": [], "ours": []}
    for name in packaged.names("experiments"):
        path = Path(name)
        kind = _kind(path.name)
        if kind is not None and not path.name.startswith("base") and path.parent.name != "classification":
            kinds[kind].append(load(name, ()))
    others = [("detectron2", DETECTRON2)]
    listed = {kind: [(kind, config) for config in configs] for kind, configs in kinds.items()}
    return [*listed["paper"], *listed["authors"], *others, *listed["ours"]]


def _kind(name: str) -> str | None:
    """Whose recipe a file of this name holds; None for small experiments, which repeat no published recipe."""
    if name.endswith("_authors"):
        return "authors"
    if name.endswith(("_voc", "_cityscapes", "_coco")):
        return "ours" if "fpn" in name else "paper"
    return "ours" if name.endswith(("_cards", "_camvid")) else None


def _cells(found: Rates) -> list[str]:
    images = "" if found.images is None else f"{found.images:,}"
    total = "" if found.total is None else f"{found.total:.1f}"
    on_mean = f"{found.rate:g} of {found.batch}"
    return [on_mean, f"{found.per_image:.3g}", images, total, f"{found.decay:.3g}"]
