"""Oracles that several operator tests share."""

from pathlib import Path

import pytest

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of arrays from the authors' kernels."""
    if not GOLDENS.is_dir():
        pytest.skip("the golden arrays are not part of the project: ../shared/goldens is absent")
    return GOLDENS
