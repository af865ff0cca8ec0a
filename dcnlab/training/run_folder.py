"""The run folder: its name, its lock, and results.json, which is there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcnlab.config.schema import Config
from dcnlab.config.validation import check_folder_name
from dcnlab.io import json_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.files import open_regular
from dcnlab.io.text import nearest, one_line, shown, visible
from dcnlab.training.outcome import ENDS, STATUSES

SCHEMA = 1
LARGEST_RESULTS = 2**24
"""Bytes of a results.json; ours have some thousand."""
CHECKPOINT = Path("checkpoints") / "last.ckpt"
PREVIOUS = CHECKPOINT.with_name("previous.ckpt")
"""The checkpoint before the last one."""
# The checkpoint goes first, so that no other process of a new run takes it for one to go on from; config.yaml goes
# last, because it marks the folder as ours.
_WRITTEN = (
    "checkpoints",
    "metrics.csv",
    "results.json",
    "detections.json",
    "dilation.json",
    "robustness.json",
    "pictures",
    "figures",
    "wandb",
    "config.yaml",
)
_BEFORE = ("parameters.json", "log.txt")
"""What a sweep puts there before the run starts."""

_FIGURES = {"model": ("params", "macs"), "cost": ("train_seconds", "images_per_second", "peak_memory_bytes")}
"""Figures of results.json beside the metrics; null where one was not taken."""
_OVER = ("classes", "left_out")
"""Lists of `metrics_over`: classes that the means are over, and those without a label (of pixels: nor predicted)."""
_NAMED = 5
"""Classes that are named; of more there is the number alone."""
_TEXTS = ("git", "dcnlab", "torch", "gpu", "cpu", "cuda")
"""Of its environment: what is text; the first ones tell code apart."""
MOST_NAMES = {"parameters": 1000, "metrics": 100_000, "model": 100, "cost": 100, "environment": 1000}
"""Entries of each section."""
MOST_HEADLINES = 100
"""Metrics of the whole test; each is a column of people's tables."""
LONGEST_NAME = 1000
"""Characters of an entry's name."""


def folder_of(config: Config) -> Path:
    """Where this run lies: OUT/NAME/ID; without an ID that which a wandb agent gave, or else the time of day.

    Raises:
        ConfigError: several processes were started from outside and each would make up an ID of its own.
    """
    if config.id is None:
        # Lightning starts the other processes of this machine with the same arguments and our environment.
        several = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1
        if several and "DCNLAB_RUN_ID" not in os.environ:
            raise ConfigError("id is null, and several processes share the run; state one for all of them: id=NAME")
        check_folder_name("WANDB_RUN_ID", os.environ.get("WANDB_RUN_ID") or None)
        own = os.environ.get("WANDB_RUN_ID") or f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        config.id = os.environ.setdefault("DCNLAB_RUN_ID", own)
    return Path(config.out) / config.name / config.id


def has_checkpoint(folder: Path) -> bool:
    """Whether a run can be resumed from its folder."""
    return any((folder / name).is_file() for name in (CHECKPOINT, PREVIOUS))


def create(folder: Path) -> Path | None:
    """Make the run folder, or empty it of what a run without a checkpoint left there.

    Returns:
        The folder that a diverged run was moved to; None where there was none.

    Raises:
        ConfigError: a finished run lies there already, a checkpoint, or something that is no run.
    """
    results = read_results(folder)
    if results is not None and results["status"] == "finished":
        raise is_finished(folder)
    aside = _move_aside(folder) if diverged(results) else None
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if path.is_file():
            raise ConfigError(f"{folder} holds {path.name} of a training; choose another id, or remove the folder")
    folder.mkdir(parents=True, exist_ok=True)
    foreign = [path.name for path in folder.iterdir() if path.name not in _BEFORE and not path.name.startswith(".")]
    if foreign and not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is no run folder and holds {min(foreign)}; choose another id, or remove it")
    for name in _WRITTEN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return aside


def is_finished(folder: Path) -> ConfigError:
    """The complaint of a folder whose run is finished."""
    return ConfigError(
        f"{folder} holds a finished run; choose another id, remove the folder, or train it longer: "
        f"dcnlab resume {shlex.quote(str(folder))} trainer.max_steps=N"
    )


def diverged(results: dict[str, Any] | None) -> bool:
    """Whether a run ended because its numbers went wrong, so that going on would end the same way.

    Args:
        results: of its results.json; None where it has none.
    """
    if results is None or results["status"] != "failed":
        return False
    if results.get("end") is not None:
        return bool(results["end"] == "diverged")
    reason = results.get("reason")  # of folders from before `end` was written
    return isinstance(reason, str) and reason.startswith(("Diverged: ", "ConfigError: the training diverged: "))


def moved_aside(folder: Path) -> bool:
    """Whether a folder is one that a diverged run was moved to, whose place another run has taken."""
    name, dot, number = folder.name.rpartition(".diverged-")
    return bool(dot) and number.isdigit() and (folder.with_name(name) / "results.json").is_file()


def _move_aside(folder: Path) -> Path:
    """Move what a run wrote to FOLDER.diverged-N, the checkpoint first; the folder's lock stays."""
    names = (folder.with_name(f"{folder.name}.diverged-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    aside.mkdir()
    for name in _WRITTEN:
        if (folder / name).exists():
            (folder / name).rename(aside / name)
    if (folder / "parameters.json").is_file():  # the sweep has just written it for the new run
        shutil.copyfile(folder / "parameters.json", aside / "parameters.json")
    return aside


def find(name: str) -> Path:
    """A run folder by its path.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    path = Path(name)
    if (path / "config.yaml").is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{name} is no run folder: it has no config.yaml")
    siblings = [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(name, siblings)
    raise ConfigError(f"no such run: {name}" + (f"; nearest: {near}" if near else ""))


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `path` as this process's own; the system lets go of it however the process ends.

    Raises:
        ConfigError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, "ab") as file:
        try:
            # Not flock, whose lock the loader processes would inherit, and hold for as long as they outlive this one.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(f"{path.parent} is in use by another dcnlab process") from error
        yield


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file, text as UTF-8, so that readers see the old one or the new one, and never a part.

    Raises:
        OSError: it cannot be written, with the path; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # a full disk names none
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's list of files to the disk: without it a power cut may undo a rename that others have seen."""
    with contextlib.suppress(OSError):  # some network drives know no such thing
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what `write_whole` leaves in a run folder when it is killed; for the one who holds the folder's lock."""
    for place in (folder, folder / CHECKPOINT.parent):
        for path in place.glob(".*"):
            if re.fullmatch(r"\.((last|previous)\.ckpt|\w+\.(json|csv|yaml))\.\d+", path.name):
                path.unlink(missing_ok=True)


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write `results` as the folder's results.json."""
    if "reason" in results:  # it may quote the name of a file, which is any bytes
        results = {**results, "reason": visible(results["reason"])}
    write_whole(folder / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")


def read_results(folder: Path) -> dict[str, Any] | None:
    """The folder's results.json, or None where there is none.

    Raises:
        ConfigError: it is not what a run writes.
    """
    path = folder / "results.json"
    try:
        results = json_file.load(path, LARGEST_RESULTS)
        json_file.check_depth(results)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not JSON ({one_line(error)}); remove it to have the run go on") from error
    check_results(results, str(path))
    return results


def check_results(results: Any, source: str) -> None:
    """Check that `results` is what a run writes.

    Raises:
        ConfigError: it is not; names `source`.
    """
    sections = ("parameters", "metrics", "model", "cost", "environment")
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise ConfigError(f"{source}: not of schema {SCHEMA}")
    if results.get("status") not in STATUSES or not all(isinstance(results.get(key), dict) for key in sections):
        raise ConfigError(f"{source}: status or one of {', '.join(sections)} is missing")
    _check_names(results, source)
    if type(results.get("seed")) is not int:
        raise ConfigError(f"{source}: seed is {shown(results.get('seed'))}; it must be a whole number")
    if not isinstance(results.get("end"), str | None):
        raise ConfigError(f"{source}: end is {shown(results['end'])}; it must be text, such as {ENDS[0]}")
    over = results.get("metrics_over")
    if over is not None and not (isinstance(over, dict) and all(_are_names(over.get(key)) for key in _OVER)):
        raise ConfigError(
            f"{source}: metrics_over is {shown(over)}; it must hold lists of names, {' and '.join(_OVER)}"
        )
    for section, keys in (("metrics", results["metrics"]), *_FIGURES.items()):
        for key in keys:
            value = results[section].get(key)
            if not _is_figure(value) and (value is not None or section == "metrics"):
                raise ConfigError(f"{source}: {section}.{shown(key)} is {shown(value)}; it must be a finite number")
    for key in _TEXTS:
        if not isinstance(results["environment"].get(key), str | None):
            raise ConfigError(f"{source}: environment.{key} is {shown(results['environment'][key])}; it must be text")
    if type(results["environment"].get("world_size")) not in (int, type(None)):
        said = shown(results["environment"]["world_size"])
        raise ConfigError(f"{source}: environment.world_size is {said}; it must be a whole number")


def _check_names(results: dict[str, Any], source: str) -> None:
    """Refuse names and texts that no table can hold: what is no text in any encoding, and what is too much."""
    wrong = next((key for key, value in results.items() if not _is_text([key, value])), None)
    if wrong is not None:
        raise ConfigError(f"{source}: {shown(wrong)} holds a lone surrogate, which is no character")
    for section, most in MOST_NAMES.items():
        names = list(results[section])
        if len(names) > most:
            raise ConfigError(f"{source}: {section} has {len(names)} entries; allowed are {most}")
        longest = max(names, key=len, default="")
        if len(longest) > LONGEST_NAME:
            raise ConfigError(f"{source}: {section} has a name of {len(longest)} characters; allowed {LONGEST_NAME}")
    headlines = sum(map(is_headline, results["metrics"]))
    if headlines > MOST_HEADLINES:
        raise ConfigError(f"{source}: metrics has {headlines} of the whole test; allowed are {MOST_HEADLINES}")


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def means_over(results: dict[str, Any]) -> str | None:
    """Say which classes the means of a run are over; None where they are over all of them.

    Args:
        results: as `check_results` lets pass, or `metrics_over` alone of them.
    """
    over = results.get("metrics_over")
    if not over or not over["left_out"]:
        return None
    if not over["classes"]:
        return "no metrics: data.test has nothing to find, no label of any class"
    known, missing = len(over["classes"]), over["left_out"]
    names = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
    return f"means are over {known} of {known + len(missing)} classes, without those that data.test lacks: {names}"


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def is_headline(metric: str) -> bool:
    """Whether a metric is for people's tables: no figure of a single class (iou/CLASS), no recall (ar100)."""
    return "/" not in metric and not re.fullmatch(r"ar(\d+|_.*)", metric)


def goal(metric: str) -> str:
    """Whether more or less of a metric is better: maximize | minimize."""
    return "minimize" if re.search(r"loss|seconds|params|macs", metric) else "maximize"


def discover(roots: list[Path]) -> list[Path]:
    """Every run folder below `roots`: each one that holds a config.yaml."""
    found = {
        path.parent
        for root in roots
        for path in root.glob("**/config.yaml")
        if "wandb" not in path.relative_to(root).parts
    }
    return sorted(found)
