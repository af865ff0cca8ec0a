"""The environment of a run: versions, device, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from dcnlab import __version__


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with `-dirty` where files differ; None in a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def describe(world_size: int, device: Any) -> dict[str, Any]:
    """The `environment` of results.json.

    Args:
        world_size: number of ranks.
        device: the torch.device that rank 0 computed on.
    """
    import torch

    on_gpu = device.type == "cuda"
    return {
        "git": git_commit(),
        "dcnlab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("pytorch-lightning"),
        "cuda": torch.version.cuda if on_gpu else None,
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "cpu": _processor(),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "platform": platform.platform(),
    }


def device_name(device: Any) -> str:
    """A torch.device in words, such as `cuda:0 (NVIDIA H200)`, or the CPU with its threads."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else str(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
