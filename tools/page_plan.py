"""What is run of the pages' commands, with which words, and why the others are skipped."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import page_data
import page_runs
from page_commands import PAGES, ROOT, commands_of

SKIPPED = {
    r"^pip ": "needs a network",
    r"^docker ": "needs Docker",
    r"^apptainer ": "needs Apptainer",
    r"^conda ": "needs conda",
    r"^wandb ": "needs wandb's server",
    r"--(to-)?wandb ": "needs wandb's server",
    r"^tensorboard ": "serves until it is stopped",
    r"^srun |--launcher slurm": "needs SLURM",
    r"^torchrun ": "needs 8 GPUs",
    r"pretrained_finetuned_camvid": "needs a GPU",
    r"^make (gpu-test|ablations-gpu)": "needs a GPU",
    r"^make \w+ (TORCH|CUDA)=": "needs a network",
    r"^make (install|test|lint|docs)( |$)": "CI runs it",
    r"^make test-newest": "CI runs it",
    r"^make pages-check": "is this program",
    r"^make quickstart": "installs, then trains for minutes",
    r"^make (ablations-small|bench|evidence|evidence-check)( |$)": "takes half an hour or more",
    r"^make bench-guard": "takes minutes; a test holds the counts",
    r"weights=mask_rcnn_r101": "needs mmdetection's weights",
    r"^dcnlab convert model_final": "needs detectron2's weights",
    r"^dcnlab convert resnet_v1_101": "needs the authors' weights",
    r"mine\.networks:Detector": "needs classes of the reader's",
    r"^python tools/evidence\.py fill": "changes the page; tests hold it to the kept runs",
}
"""Why commands of a pattern do not run here. A pattern that no page has any more is an error."""


@dataclass(frozen=True)
class Step:
    """A command of a page."""

    page: str
    command: str
    """As printed, without its comment."""
    words: tuple[str, ...]
    """What is run."""
    reason: str | None
    """Why it is not run."""


def reason_of(command: str) -> str | None:
    """Why a command is skipped; None where it runs."""
    return next((reason for pattern, reason in SKIPPED.items() if re.search(pattern, command)), None)


def shortening(command: str) -> tuple[str, ...]:
    """The words that make a command's training short."""
    found = re.match(r"dcnlab (\w+)(?: (\S+))?", command)
    if found is None:
        return ()
    name, target = found[1], found[2] or ""
    if name == "resume":
        return ("trainer.max_steps=4",) if "max_steps" in command else ()
    of_a_sweep = name in ("table", "robustness") and not re.fullmatch(r"table\d", target)
    if name not in ("fit", "sweep") and not of_a_sweep:
        return ()
    words: tuple[str, ...] = ("--limit", "1", *page_runs.TRAINER) if name == "sweep" else page_runs.TRAINER
    if "data.root=" not in command:
        return (*words, *(() if target.startswith("runs/") else page_runs.DIGITS))
    words += page_runs.FOLDERS
    if "classification" not in target:
        words += page_runs.PHOTOGRAPHS
    if "pretrained" in target:
        return words
    words += page_runs.UNTRAINED
    return words if "model.backbone.name" in command else words + page_runs.SLIM


def words_to_run(words: Sequence[str]) -> tuple[str, ...]:
    """What is run for a command: shortened, without `exec` and what follows a pipe, with paths of the checkout."""
    if words[0] == "eval":
        return ("bash", "-c", f'eval "{words[1]}"')
    kept = list(words[: words.index("|")] if "|" in words else words)
    kept = [word for word in kept if word != "exec"]
    for pattern, (placeholder, word) in page_runs.INSTEAD.items():
        if re.search(pattern, " ".join(kept)):
            kept = [word if old == placeholder else old for old in kept]
    if kept[0] == "python":
        kept[1] = str(ROOT / kept[1])
    if kept[0] == "make":
        kept[1:1] = ["-C", str(ROOT)]
    return (*kept, *shortening(" ".join(kept)))


def plan(page: Path) -> list[Step]:
    """The commands of a page in the order printed."""
    steps = []
    for words in commands_of(page):
        command = shlex.join(words)
        steps.append(Step(page.name, command, words_to_run(words), reason_of(command)))
    return steps


def stale(pages: Iterable[Path] = PAGES, patterns: Iterable[str] | None = None) -> list[str]:
    """The patterns of the tables that no command of the pages has."""
    if patterns is None:
        patterns = (*SKIPPED, *page_data.DATA, *page_runs.TRAINED, *page_runs.INSTEAD)
    commands = [shlex.join(words) for page in pages for words in commands_of(page)]
    return [pattern for pattern in patterns if not any(re.search(pattern, command) for command in commands)]
