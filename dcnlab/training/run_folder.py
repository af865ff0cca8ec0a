"""RunFolder: the files of a run, from its lock to its pictures."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.config.schema import Config
from dcnlab.config.value_checks import check_folder_name
from dcnlab.io.errors import ConfigError
from dcnlab.io.file_lock import lock
from dcnlab.training import results_file
from dcnlab.training.distributed import rank_checks
from dcnlab.training.distributed.rank import is_rank_0

LAST = "last.ckpt"
"""Name of the last checkpoint."""
PREVIOUS = "previous.ckpt"
"""Name of the checkpoint before the last one."""
OFFSETS = "test.offsets"
"""The key under whose other values a run folder keeps scores as well."""

# The checkpoints go first, so that no other rank of a new run takes one for its own; config.yaml goes last, because it
# marks the folder as a run's.
_WRITTEN = (
    "checkpoints",
    "metrics.csv",
    "results.json",
    "detections.json",
    "test_images.npz",
    "confusion.json",
    "dilation.json",
    "dilation_boxes.npz",
    "robustness.json",
    "tests",
    "pictures",
    "profile",
    "tensorboard",
    "figures",
    "wandb",
    "config.yaml",
)
_WRITTEN_BEFORE = ("parameters.json", "log.txt")
"""Files that a sweep writes there before the run starts."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, OUT/NAME/ID.

    Args:
        path: of the folder, which need not exist yet.
    """

    path: Path

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder of a run: its ID is that of the config, or of a wandb agent, or the time of day.

        Raises:
            ConfigError: a launcher started several ranks, and each would make up another ID.
        """
        if config.id is None:
            # Lightning starts the other ranks of this machine with the same arguments and our environment.
            several = rank_checks.several_processes()
            agents = os.environ.get("WANDB_RUN_ID") or None  # the same on all ranks that a launcher starts
            if several and agents is None and "DCNLAB_RUN_ID" not in os.environ:
                raise ConfigError("id is null, and several processes share the run; state one for all of them: id=NAME")
            check_folder_name("WANDB_RUN_ID", agents)
            new_id = agents or f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            config.id = os.environ.setdefault("DCNLAB_RUN_ID", new_id)
        return cls(Path(config.out) / config.name / config.id)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        """The experiment, complete; its presence marks a run folder."""
        return self.path / "config.yaml"

    @property
    def results(self) -> Path:
        """How the run ended; absent after a kill."""
        return self.path / "results.json"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.path / "checkpoints" / LAST

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before the last one."""
        return self.checkpoint.with_name(PREVIOUS)

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the best validation; where it exists, it is the one that is scored and loaded."""
        return self.checkpoint.with_name("best.ckpt")

    @property
    def metrics(self) -> Path:
        """What was logged, by steps."""
        return self.path / "metrics.csv"

    @property
    def detections(self) -> Path:
        """A detector's boxes on the test split, in COCO's result form."""
        return self.path / "detections.json"

    @property
    def test_images(self) -> Path:
        """What the scores were made of for each test image; absent in the folders of earlier releases."""
        return self.path / "test_images.npz"

    @property
    def confusion(self) -> Path:
        """How often each class of the test split was found as which; classification and segmentation."""
        return self.path / "confusion.json"

    @property
    def confusion_picture(self) -> Path:
        """The same as a picture."""
        return self.pictures / "confusion.png"

    @property
    def tests(self) -> Path:
        """Folder of the scores under other values of `test.offsets`."""
        return self.path / "tests"

    def test_under(self, offsets: str) -> Path:
        """Folder of the results.json and the test_images.npz under a value of `test.offsets`."""
        return self.tests / f"offsets-{offsets}"

    @property
    def pictures(self) -> Path:
        """Folder of test images with what was found in them."""
        return self.path / "pictures"

    @property
    def figures(self) -> Path:
        """Folder of the plots that `dcnlab visualize` draws."""
        return self.path / "figures"

    @property
    def wandb(self) -> Path:
        """Folder of wandb's own files."""
        return self.path / "wandb"

    def wandb_id(self) -> str | None:
        """The run's ID on wandb, by the newest of wandb's folders or by results.json; None where it has none yet."""
        folders = [path.name.removeprefix("offline-") for path in self.wandb.glob("*run-*-*") if path.is_dir()]
        if folders:
            return max(folders).split("-", 2)[2]  # run-TIME-ID
        recorded = (self.read_results() or {}).get("wandb")
        number = recorded.get("id") if isinstance(recorded, dict) else None
        return number if isinstance(number, str) else None

    @property
    def parameters(self) -> Path:
        """The parameters that a sweep chose."""
        return self.path / "parameters.json"

    @property
    def log(self) -> Path:
        """The output of a sweep's trial."""
        return self.path / "log.txt"

    def checkpoints(self) -> list[Path]:
        """The checkpoints that exist, the newest first: two, one or none."""
        return [path for path in (self.checkpoint, self.previous_checkpoint) if path.is_file()]

    def read_results(self) -> dict[str, Any] | None:
        """The content of results.json; None: no such file.

        Raises:
            ConfigError: it does not have the form that a run writes.
        """
        return results_file.read(self.results)

    def write_results(self, results: dict[str, Any]) -> None:
        """Write results.json, and remove the scores of other tests, which were of earlier weights."""
        shutil.rmtree(self.tests, ignore_errors=True)
        results_file.write(self.results, results)

    @contextlib.contextmanager
    def locked_by_rank_0(self) -> Iterator[None]:
        """Keep other dcnlab processes out: rank 0 locks the folder for all ranks.

        Raises:
            ConfigError: another process uses it.
        """
        with lock(self.path / ".lock") if is_rank_0() else contextlib.nullcontext():
            yield

    def create(self) -> Path | None:
        """Make the folder, or remove the files that a run without a checkpoint left there.

        Returns:
            The folder that a diverged run was moved to; None where there was none.

        Raises:
            ConfigError: it holds a finished run, a checkpoint, or something that is not a run.
        """
        results = self.read_results()
        if results is not None and results["status"] == "finished":
            raise self.finished_error()
        aside = self._move_aside() if results_file.diverged(results) else None
        for path in self.checkpoints():
            raise ConfigError(f"{self} holds {path.name} of a training; choose another id, or remove the folder")
        self.path.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in self.path.iterdir() if not path.name.startswith(".")]
        foreign = [name for name in names if name not in _WRITTEN_BEFORE]
        if foreign and not self.config.is_file():
            raise ConfigError(f"{self} is not a run folder and holds {min(foreign)}; choose another id, or remove it")
        for name in _WRITTEN:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return aside

    def finished_error(self) -> ConfigError:
        """The error of a new run whose folder holds a finished one."""
        return ConfigError(
            f"{self} holds a finished run; choose another id, remove the folder, or train it longer: "
            f"dcnlab resume {shlex.quote(str(self))} trainer.max_steps=N"
        )

    def _move_aside(self) -> Path:
        """Move a run's files to FOLDER.diverged-N, the checkpoints first; the folder's lock stays."""
        names = (self.path.with_name(f"{self.path.name}.diverged-{number}") for number in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        aside.mkdir()
        for name in _WRITTEN:
            if (self.path / name).exists():
                (self.path / name).rename(aside / name)
        if self.parameters.is_file():  # the sweep has just written it for the new run
            shutil.copyfile(self.parameters, RunFolder(aside).parameters)
        return aside

    def is_moved_aside(self) -> bool:
        """Whether a diverged run was moved here, and another run has taken its folder."""
        name, dot, number = self.path.name.rpartition(".diverged-")
        return bool(dot) and number.isdigit() and RunFolder(self.path.with_name(name)).results.is_file()

    def remove_temporaries(self) -> None:
        """Remove the temporary files of writers that were killed; only for the process that holds the lock."""
        for folder in (self.path, self.checkpoint.parent):
            for path in folder.glob(".*"):
                if re.fullmatch(r"\.((last|previous|best)\.ckpt|\w+\.(json|csv|yaml|npz))\.\d+", path.name):
                    path.unlink(missing_ok=True)
