"""Starts the mirror of a run on Weights & Biases: its mode, its server, its names, and the ID that it keeps."""

from __future__ import annotations

import logging
import math
import os
import shlex
import ssl
import urllib.error
import urllib.request
from typing import Any

from pytorch_lightning.loggers import WandbLogger

from dcnlab.config.schema import Config
from dcnlab.config.value_checks import choose
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.training import environment
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.loggers import console, wandb_run
from dcnlab.training.loggers.step_logger import StepLogger
from dcnlab.training.run_folder import RunFolder

SERVER_SECONDS = 5.0
"""For wandb's server to answer before the run is kept offline."""
FINISH_SECONDS, CHECKPOINT_SECONDS = 300.0, 3600.0
"""For wandb's server to take what is left at the end of a run; the second where it takes the checkpoint too."""


def mode() -> str:
    """The mode of wandb: offline, unless WANDB_MODE says otherwise or a wandb agent started the run.

    Raises:
        ConfigError: WANDB_MODE is none of wandb's modes, or is online without a key; nothing here asks for one. Or
            WANDB_FINISH_TIMEOUT is not a number.
    """
    finish_seconds(FINISH_SECONDS)
    name = os.environ.get("WANDB_MODE") or ("online" if under_agent() else "offline")
    choose("WANDB_MODE", name, ("online", "offline", "shared", "disabled", "dryrun", "run"))
    name = {"dryrun": "offline", "run": "online"}.get(name, name)
    if name in ("online", "shared"):
        import wandb

        if not wandb.login(prompt=False, verify=False):
            raise ConfigError(f"WANDB_MODE is {name}, and there is no key: run `wandb login`, or unset WANDB_MODE")
    return name


def finish_seconds(usual: float) -> float:
    """How long the end of a run waits for wandb's server: WANDB_FINISH_TIMEOUT, or the usual time.

    Raises:
        ConfigError: the variable is not a positive number.
    """
    text = os.environ.get("WANDB_FINISH_TIMEOUT") or str(usual)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"WANDB_FINISH_TIMEOUT is {text!r}; it must be a positive number of seconds")
    return seconds


def under_agent() -> bool:
    """Whether a wandb agent started the run."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def start(config: Config, folder: RunFolder, kept: str | None = None) -> WandbLogger | None:
    """The logger to Weights & Biases, on rank 0; None where the config or WANDB_MODE disables it.

    Args:
        config: of the run.
        folder: of the run, for wandb's files.
        kept: ID on wandb that the run had before; None takes WANDB_RUN_ID, or a new one.

    Raises:
        ConfigError: wandb's server refuses the run.
    """
    name = mode() if console.uses(config.logger, "wandb") else "disabled"
    if name == "disabled" or not is_rank_0():
        return None
    import wandb

    # Under an agent the run's ID is the agent's; otherwise a resumed run continues the one that it was.
    number = None if under_agent() and os.environ.get("WANDB_RUN_ID") else kept
    advice = f"the run is kept offline, and `wandb sync {shlex.quote(str(folder.wandb))}/offline-run-*` sends it later"
    if name != "offline" and (reason := unreachable()):
        _warn(f"wandb's server does not answer ({reason}); {advice}")
        name = "offline"
    try:
        run = _init(config, folder, number, name)
    except wandb.errors.CommError as error:
        if name == "offline" or not _is_timeout(error):
            raise ConfigError(f"wandb: {one_line(error)}") from error
        _warn(f"wandb's server does not answer ({one_line(error)}); {advice}")
        run = _init(config, folder, number, "offline")
    except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
        raise ConfigError(f"wandb: {one_line(error)}") from error
    wandb_run.define(run)
    return StepLogger(run)


def _init(config: Config, folder: RunFolder, number: str | None, name: Any) -> Any:
    """Start wandb's run. WandbLogger's own call of init passes options that wandb warns about."""
    import wandb

    if name == "offline":  # the run's mode alone does not stop wandb's telemetry
        os.environ.setdefault("WANDB_MODE", name)
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    sweep = os.environ.get(wandb_run.SWEEP)
    tags = [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip()]
    return wandb.init(
        id=number,
        resume="allow",
        project=config.logger.project or os.environ.get("WANDB_PROJECT") or "dcnlab",
        entity=config.logger.entity or os.environ.get("WANDB_ENTITY") or None,
        name=os.environ.get("WANDB_NAME") or f"{config.name}/{config.id}",
        group=os.environ.get("WANDB_RUN_GROUP") or (f"{config.name}-{sweep}" if sweep else config.name),
        tags=[*tags, f"sweep-{sweep}"] if sweep else tags or None,
        dir=folder.path,
        config=wandb_run.config(config, sweep),
        mode=name,
        settings=wandb.Settings(
            silent=True,
            console="wrap",
            disable_git=True,  # wandb would look into the current folder; the commit is that of this code
            git_commit=environment.git_commit(),
            x_disable_stats=name == "offline",
            finish_timeout=finish_seconds(CHECKPOINT_SECONDS if config.logger.artifacts else FINISH_SECONDS),
            finish_timeout_raises=True,
        ),
    )


def unreachable() -> str | None:
    """Why wandb's server cannot be reached; None where something answers, if only with a refusal."""
    import wandb

    address = wandb.setup(wandb.Settings(silent=True)).settings.base_url
    try:
        with urllib.request.urlopen(address, timeout=SERVER_SECONDS):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return None if isinstance(reason, ssl.SSLError) else f"{address}: {reason}"  # wandb has its own certificates


def _is_timeout(error: Exception) -> bool:
    """Whether the server did not answer, in place of refusing the run."""
    return "timed out" in str(error).lower() or "timeout" in str(error).lower()


def _warn(text: str) -> None:
    logging.getLogger("dcnlab").warning(text)
