"""Whose fault an error is: decided by its type, not by where it was raised."""

import signal
from pathlib import Path

import pytest
from PIL import Image

from dcnlab.config.load import load_experiment
from dcnlab.data.classification.image_folder import ImageFolderSplit
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.training.run import fit

SMALL = ["id=one", "logger.wandb=false", "data.name=imagefolder", "data.root=data", "data.val=train", "data.test=train",
         "data.image_size=32", "data.batch_size=2"]  # fmt: skip


class OwnError(DataError):
    """Of a data set that is not ours."""


@pytest.fixture
def images(tiny):
    for name in "ab":
        for number in range(2):
            path = Path("data/train", name, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32)).save(path)
    before = signal.getsignal(signal.SIGINT)
    yield tiny
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [DataError, OwnError])
def test_a_data_error_of_any_reader_is_one_line(images, monkeypatch, workers, kind):
    """A DataError, or a user's subclass of it, raised in the process or in a loader worker."""

    def broken(self, index):
        raise kind("sheet 3 has no column: label")

    monkeypatch.setattr(ImageFolderSplit, "__getitem__", broken)
    with pytest.raises(ConfigError, match=r"^sheet 3 has no column: label\Z"):
        fit(load_experiment(images, [*SMALL, f"data.workers={workers}"]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_valueerror_inside_a_reader_keeps_its_traceback(images, monkeypatch, workers):
    """Whose fault it is depends on the error's type, not on the folder it comes from."""

    def broken(self, index):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(ImageFolderSplit, "__getitem__", broken)
    with pytest.raises(ValueError, match="operands could not be broadcast") as caught:
        fit(load_experiment(images, [*SMALL, f"data.workers={workers}"]))
    assert not isinstance(caught.value, ConfigError)


def test_a_valueerror_while_building_data_is_a_traceback(images, monkeypatch):
    """A bug in a data set's constructor is not reported as the user's mistake."""

    def broken(self, *arguments, **more):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(ImageFolderSplit, "__init__", broken)
    with pytest.raises(ValueError, match="operands could not be broadcast") as caught:
        fit(load_experiment(images, SMALL))
    assert not isinstance(caught.value, ConfigError)
