"""Starts the command line as a user does, in another process."""

import os
import re
import shutil
import signal
import subprocess
import sys

from locations import ROOT
from processes import GUARD, await_
from warm_python import WarmPopen, can_fork

OTHERS = {"PYTEST_CURRENT_TEST", "PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG",
          "PYTORCH_NVML_BASED_CUDA_CHECK", "TORCHINDUCTOR_CACHE_DIR", "TORCH_CPP_LOG_LEVEL"}  # fmt: skip
"""Variables that pytest, torch, Lightning and `main` set in the process of the tests."""


def environment(**more):
    """The environment of a process that runs this checkout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in OTHERS and not name.startswith(("WANDB_", "DCNLAB_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


USUAL = environment()
"""The environment before any test has run."""


def start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, new_session=False, **more):
    """Start the command line in the current folder, with further variables of the environment.

    A Python that has imported it forks the process. Where variables differ that an import may read, it starts anew.
    """
    command = [sys.executable, "-P", "-m", "dcnlab", *map(str, arguments)]
    env = environment(**more)
    popen = WarmPopen if can_fork(env, USUAL) else subprocess.Popen
    return popen(command, env=env, stdout=stdout, stderr=stderr, text=True, start_new_session=new_session)


def dcnlab(*arguments, timeout=GUARD, **more):
    """Run the command line in the current folder to its end."""
    return _ended(start(*arguments, **more), timeout)


COURSE = ("data: ", "classes: ", "network: ", "device: ", "run: ", "step ", "test: ", "next: ", "      dcnlab ")
"""How the lines begin that every run prints to standard error, about what it is made of and how far it is."""

TWICE = re.compile(r"note: \S+ is set \d+ times, ")
"""Of a test's own settings, given after those of its experiment."""


def complaints(text):
    """The other lines of a run's standard error: warnings, errors, tracebacks, notes but of a key that is set twice."""
    return [line for line in text.splitlines() if not line.startswith(COURSE) and not TWICE.match(line)]


def _ended(process, timeout):
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_python(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, new_session=False, **more):
    """Start `python ARGUMENTS` in a process that has imported dcnlab before: a script, `-c CODE` or `-m dcnlab`.

    Further variables of the environment have no effect on what an import has read.
    """
    words = [sys.executable, *map(str, arguments)]
    pipes = {"stdout": stdout, "stderr": stderr, "text": True}
    return WarmPopen(words, env=environment(**more), **pipes, start_new_session=new_session)


def python(*arguments, timeout=GUARD, **more):
    """Run `python ARGUMENTS`, as `start_python` does, to its end."""
    return _ended(start_python(*arguments, **more), timeout)


def dcnlab_anew(*arguments, timeout=GUARD, **more):
    """As `dcnlab`, always by a new Python."""
    command = [sys.executable, "-P", "-m", "dcnlab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(**more))


def kill_after_its_first_checkpoint(run, *arguments):
    """Start the command line in the current folder, and kill -9 it once `run` has a checkpoint."""
    while True:
        process = start(*arguments, stdout=subprocess.DEVNULL)
        await_(lambda: (run / "checkpoints/last.ckpt").exists() or process.poll() is not None)  # noqa: B023
        process.kill()
        _, err = process.communicate(timeout=GUARD)
        assert process.returncode in (0, -signal.SIGKILL), err
        if not (run / "results.json").exists():
            return
        shutil.rmtree(run)  # the run was quicker than the look at its folder
