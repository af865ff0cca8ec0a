"""The words that shorten the pages' trainings, and the runs that commands read and no page trains."""

from __future__ import annotations

from dataclasses import dataclass

TRAINER = (
    *("trainer.max_steps=2", "trainer.val_every=9", "trainer.accelerator=cpu", "trainer.devices=1"),
    *("trainer.threads=1", "optim.warmup=0", "data.workers=0", "logger.wandb=false"),
)
"""Words that shorten every training."""
DIGITS = ("data.train_length=64", "data.test_length=40")
"""More words, where the data are the embedded digits."""
FOLDERS = ("data.batch_size=4",)
"""More words, where they lie in a folder."""
PHOTOGRAPHS = ("data.shorter_side=96",)
"""More words, where those have boxes or label maps."""
UNTRAINED = ("model.backbone.weights=none",)
"""More words, where no weights of a package are the command's point: others would be downloaded."""
SLIM = ("model.backbone.name=resnet10_slim",)
"""One more, where the command leaves the backbone to the experiment."""


@dataclass(frozen=True)
class Trained:
    """Run folders that a command reads and a page does not train."""

    path: str
    """Where the command expects them, below the page's folder."""
    source: str
    """Where `commands` leave them, below theirs."""
    commands: tuple[tuple[str, ...], ...]
    """Each the words of a command."""


_FIT = ("dcnlab", "fit", "detection/quickstart", "model.deform_layers=3", "model.deform_pooling=true", "name=NAME")
_DETECTOR = (*_FIT, *TRAINER, *DIGITS, "id=ID")
_SECOND = (*_FIT, *TRAINER, *DIGITS, "id=ID2", "seed=1")
_CLASSIFIER = ("dcnlab", "fit", "classification/quickstart", "model.deform_layers=3", "name=CLASSIFIER", "id=ID")
_SWEEP = ("--limit", "1", *TRAINER, *DIGITS)
_PHOTOGRAPHS = ("dcnlab", "fit", "detection/own", "data.root=MINE", "name=NAME", "id=ID")
TRAINED = {
    r"\bRUN 'test\.shorter_sides": Trained(
        "RUN", "runs/NAME/ID", ((*_PHOTOGRAPHS, *TRAINER, *FOLDERS, *PHOTOGRAPHS, "data.val=null"),)
    ),
    r"\bRUN\b": Trained("RUN", "runs/NAME/ID", (_DETECTOR,)),
    r"^dcnlab export runs/NAME/ID": Trained(
        "runs/CLASSIFIER/ID", "runs/CLASSIFIER/ID", ((*_CLASSIFIER, *TRAINER, *DIGITS),)
    ),
    r"\bruns/NAME/ID\b": Trained("runs/NAME/ID", "runs/NAME/ID", (_DETECTOR,)),
    r"^dcnlab resume runs/NAME/ID trainer\.max_steps": Trained("runs/LONGER/ID", "runs/NAME/ID", (_DETECTOR,)),
    r"\bruns/NAME/ID2\b": Trained("runs/NAME/ID2", "runs/NAME/ID2", (_SECOND, ("dcnlab", "dilation", "runs/NAME/ID2"))),
    r"^dcnlab table (quickstart|SWEEP)\b": Trained(
        "runs/quickstart", "runs/quickstart", (("dcnlab", "sweep", "quickstart", *_SWEEP),)
    ),
    r"^dcnlab robustness related_work\b": Trained(
        "runs/related_work", "runs/related_work", (("dcnlab", "sweep", "related_work", *_SWEEP),)
    ),
}
"""What commands of a pattern read."""
INSTEAD = {
    r"\bSWEEP\b": ("SWEEP", "quickstart"),
    r"^dcnlab export ": ("runs/NAME/ID", "runs/CLASSIFIER/ID"),  # no detector goes into ONNX
    r"^dcnlab resume .*max_steps": ("runs/NAME/ID", "runs/LONGER/ID"),  # ID and ID2 stay alike but for their seed
}
"""Words of a pattern's commands, and those that they run with."""
