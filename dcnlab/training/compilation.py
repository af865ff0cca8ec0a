"""Compiles a run's network with torch.compile, for its training steps."""

from __future__ import annotations

import logging
import os
import shutil
import sys

import torch
from torch import nn

from dcnlab.config.schema import Config, TrainerConfig
from dcnlab.io.errors import ConfigError
from dcnlab.training.distributed.rank import is_rank_0

BACKEND = "inductor"
"""torch.compile's own."""


def check_compiler(run: TrainerConfig) -> None:
    """Check that a run that compiles its network finds the compiler that torch's backend starts.

    Raises:
        ConfigError: there is none; says what to install.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if run.compile and shutil.which(compiler) is None:
        raise ConfigError(
            f"trainer.compile is {run.compile}, which needs a C++ compiler, and {compiler} is not installed; on Debian "
            "and Ubuntu: apt-get install g++; trainer.compile=false trains without it"
        )


def compile_network(network: nn.Module, config: Config) -> None:
    """Compile a network in place, so that its state dict keeps its names; does nothing where the run does not ask.

    Of a detector the backbone is compiled. The number of boxes changes with each image, and would cut the rest into
    dozens of graphs.

    Args:
        network: of the run.
        config: of the run.
    """
    setting = config.trainer.compile
    if not setting:
        return
    backbone = getattr(network, "backbone", None)
    compiled = backbone if config.task == "detection" and isinstance(backbone, nn.Module) else network
    compiled.compile(backend=BACKEND, mode=setting if isinstance(setting, str) else None)
    if is_rank_0():
        logging.getLogger("dcnlab").info("the network is compiled in the first step, which can take minutes")


def is_compiled(network: nn.Module) -> bool:
    """Whether a network, or a part of it, was compiled in place."""
    return any(module._compiled_call_impl is not None for module in network.modules())


class Eager:
    """Has compiled networks run as they are, with the hooks of their layers, until `remove` is called.

    A compiled network does not call hooks that were registered after its first call.
    """

    def __init__(self) -> None:
        self._stance = torch.compiler.set_stance("force_eager")

    def remove(self) -> None:
        """Let compiled networks run compiled again."""
        self._stance.__exit__(None, None, None)
