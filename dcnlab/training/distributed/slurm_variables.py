"""What SLURM's variables say of this process: one of several tasks of an srun, or a process that works alone.

srun sets SLURM_STEP_ID and more for its tasks. A batch script has SLURM_PROCID, and a shell of salloc not even that.
All of them can have SLURM_NTASKS.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dcnlab.io.errors import ConfigError

OF_TASK = tuple(
    f"SLURM_{name}"
    for name in (
        *("PROCID", "LOCALID", "NODEID", "GTIDS", "TASK_PID", "STEP_ID", "STEPID"),
        *("STEP_NUM_TASKS", "STEP_NUM_NODES", "STEP_NODELIST", "STEP_TASKS_PER_NODE"),
    )
)
"""Variables of one task; the others describe the job."""
_SHELLS = ("bash", "interactive")
"""Names of jobs in which a user types commands; SLURM's own for `srun --pty bash` and salloc."""


def srun_tasks() -> int:
    """How many tasks srun started, this process being one of them; 1 where it works alone.

    Raises:
        ConfigError: a variable is not a number.
    """
    if not in_step():
        return 1
    tasks = number("STEP_NUM_TASKS")
    if tasks is None:
        tasks = 1 if in_shell() else number("NTASKS") or 1
    return 1 if tasks > 1 and _is_below_terminal_or_agent() else tasks


def in_step() -> bool:
    """Whether srun started this process, or one above it."""
    return "SLURM_STEP_ID" in os.environ


def in_shell() -> bool:
    """Whether a user types commands in this job: its number of tasks then says nothing of this command."""
    return "SLURM_PROCID" not in os.environ or os.environ.get("SLURM_JOB_NAME") in _SHELLS


def tasks_per_node() -> list[int]:
    """Tasks on each machine of the step, from a text such as `8(x2),4`; empty where SLURM does not say."""
    text = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE", "")
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in parts for _ in range(int(nodes or 1))]


def number(name: str) -> int | None:
    """The value of one of SLURM's numeric variables; None where it is not set.

    Raises:
        ConfigError: it is not a number.
    """
    text = os.environ.get(f"SLURM_{name}")
    if text is not None and not text.isdecimal():
        raise ConfigError(f"SLURM_{name} is {text!r}; SLURM sets it to a whole number")
    return None if text is None else int(text)


def forget_task() -> None:
    """Remove the task's variables where this process works alone, because Lightning reads the rank from them.

    A wandb agent that is the third task of an srun starts trials whose rank is 0.
    """
    try:
        alone = srun_tasks() == 1
    except ConfigError:  # reported once the run is checked
        return
    if alone and (in_step() or "WANDB_SWEEP_ID" in os.environ):
        for name in OF_TASK:
            os.environ.pop(name, None)


def _is_below_terminal_or_agent() -> bool:
    """Whether srun's task is a shell at a terminal, or a wandb agent: the commands of such a task share no run."""
    task = os.environ.get("SLURM_TASK_PID") or "none"
    try:
        terminal = Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[4]
        variables = Path(f"/proc/{task}/environ").read_bytes().split(b"\0")
    except OSError:  # such as in a container with another numbering of processes
        return False
    agent_started_srun = any(variable.startswith(b"WANDB_SWEEP_ID=") for variable in variables)
    return terminal != "0" or ("WANDB_SWEEP_ID" in os.environ and not agent_started_srun)
