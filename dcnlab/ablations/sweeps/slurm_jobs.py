"""Trials as jobs in SLURM's queue: submitted as arrays through submitit, watched and cancelled."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps.sbatch_options import SbatchOptions
from dcnlab.ablations.sweeps.slurm_trial import become
from dcnlab.ablations.sweeps.trial import Trial
from dcnlab.config import packaged
from dcnlab.io import json_file
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.training.run_folder import RunFolder

_CANCEL_SECONDS = 120.0
_RECORD = ".slurm.json"
"""The file in a trial's folder that names its job."""
_LARGEST_RECORD = 2**16
"""Bytes of it."""


class SlurmJobs:
    """The jobs in SLURM's queue that run trials of a sweep.

    Args:
        title: name of the jobs in the queue.
        home: folder of the trials' run folders; submitit's files go into its `.slurm`.
        options: of sbatch, `partition=NAME` and the like.
        parallel: trials at once; None sets no limit.

    Raises:
        ConfigError: submitit or SLURM's commands are not there, or an option is not of the form.
    """

    def __init__(self, title: str, home: Path, options: Sequence[str] = (), parallel: int | None = None) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError("--launcher slurm needs submitit: pip install 'dcnlab[slurm]'") from error
        self._submitit = submitit
        self._name, self._home, self._parallel = f"dcnlab-{title}", home, parallel
        self._options = SbatchOptions(options)
        self._jobs: dict[str, Trial] = {}
        self._started: dict[str, float] = {}
        self._missed: set[str] = set()
        self._states: dict[str, str] | None = None
        self._queue()

    def adopt(self, trials: Sequence[Trial]) -> list[Trial]:
        """Take over the trials that an earlier call put into the queue.

        Returns:
            The trials that are not in the queue.
        """
        others = []
        for trial in trials:
            job = _recorded(trial.folder)
            if job in (self._states or {}):
                self._jobs[job] = trial
            else:
                others.append(trial)
        return others

    def submit(self, trials: Sequence[Trial], commands: Mapping[str, Sequence[str]], mirror: Mapping[str, str]) -> None:
        """Put trials into the queue, those of one shape as one array.

        Args:
            trials: with their folders made, and an empty log.txt in each.
            commands: of each trial by its id, what follows `dcnlab`.
            mirror: environment variables of all of them.

        Raises:
            ConfigError: SLURM does not take them, or an option contradicts a trial's config; none is in the queue.
        """
        shapes = {trial.id: self._options.shape(trial.config.trainer) for trial in trials}
        for shape, same in groupby(sorted(trials, key=lambda trial: shapes[trial.id]), lambda trial: shapes[trial.id]):
            group = list(same)
            executor = self._executor(shape, group)
            # A signal waits until it is known which jobs there are to be cancelled.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            try:
                # submitit repeats what sbatch says of an error, before it raises it.
                with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                    jobs = [
                        executor.submit(become, list(commands[trial.id]), str(trial.folder / "log.txt"), dict(mirror))
                        for trial in group
                    ]
                for job, trial in zip(jobs, group, strict=True):
                    self._jobs[job.job_id] = trial
                    with contextlib.suppress(OSError):  # without it a later call does not know the job
                        write_whole(trial.folder / _RECORD, json.dumps({"job": job.job_id}) + "\n")
            except self._submitit.core.utils.FailedJobError as error:
                raise ConfigError(f"sbatch refuses the trials: {_reason(error)}") from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def threads(self) -> int | None:
        """CPU threads of a process, where an option states its cores."""
        return self._options.threads

    @property
    def waiting(self) -> bool:
        """Whether there are trials that have not ended."""
        return bool(self._jobs)

    def poll(self) -> tuple[list[Trial], list[tuple[Trial, float, str]]]:
        """Look at the queue.

        Returns:
            The trials that began since the last look; and those that ended, with their seconds and their job.
        """
        states = self._queue()
        began, ended = [], []
        for job, trial in list(self._jobs.items()):
            if job in states:
                self._missed.discard(job)
                if states[job] != "PENDING" and job not in self._started:
                    self._started[job] = time.monotonic()
                    began.append(trial)
            elif job in self._missed or _is_finished(trial.folder):
                del self._jobs[job]
                if job not in self._started:
                    began.append(trial)
                seconds = time.monotonic() - self._started.get(job, time.monotonic())
                ended.append((trial, seconds, f"SLURM job {job} ended"))
            else:  # its last files may appear here a moment later
                self._missed.add(job)
        return began, ended

    def stop(self) -> None:
        """Cancel the jobs that are left, and wait until they are gone; SLURM sends SIGTERM, later SIGKILL."""
        if not self._jobs:
            return
        subprocess.run(["scancel", *self._jobs], capture_output=True)
        deadline = time.monotonic() + _CANCEL_SECONDS
        while self._jobs.keys() & self._queue().keys() and time.monotonic() < deadline:
            time.sleep(0.5)
        self._jobs = {}

    def _queue(self) -> dict[str, str]:
        """State of each of the sweep's pending and running jobs; the last known states if SLURM does not answer.

        Raises:
            ConfigError: SLURM is not there, or does not answer the first time.
        """
        command = ["squeue", "--me", f"--name={self._name}", "--noheader", "--array", "--format=%i|%T"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
            reason = " ".join(answer.stderr.split()) if answer.returncode else None
        except FileNotFoundError as error:
            raise ConfigError("--launcher slurm needs SLURM's commands, and there is no squeue here") from error
        except subprocess.TimeoutExpired:
            reason = "squeue takes more than a minute"
        if reason is None:
            rows = (line.split("|") for line in answer.stdout.splitlines())
            self._states = {job.strip(): state for job, state in rows}
        if self._states is None:
            raise ConfigError(f"SLURM does not answer: {reason}")
        return self._states

    def _executor(self, shape: tuple[int, int], trials: Sequence[Trial]) -> Any:
        executor = self._submitit.SlurmExecutor(self._home / ".slurm", python=f"{shlex.quote(sys.executable)} -P")
        # The nodes run the same code as this process, even from a checkout.
        code = f"export PYTHONPATH={shlex.quote(str(packaged.PACKAGE.parent))}${{PYTHONPATH:+:$PYTHONPATH}}"
        executor.update_parameters(
            job_name=self._name,
            time=None,  # the partition's default, where no option states one
            setup=[code],
            srun_args=["--kill-on-bad-exit=1"],
            array_parallelism=self._parallel or len(trials),
            stderr_to_stdout=True,
            additional_parameters=self._options.flags(shape, [trial.config.trainer for trial in trials]),
        )
        return executor


def _recorded(folder: Path) -> str | None:
    """The job that a trial was last submitted as."""
    try:
        return str(json_file.load(folder / _RECORD, _LARGEST_RECORD)["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_finished(folder: Path) -> bool:
    """Whether a trial's results.json says that it is finished; False if the file is broken."""
    try:
        return (RunFolder(folder).read_results() or {}).get("status") == "finished"
    except ConfigError:
        return False


def _reason(error: BaseException) -> str:
    """The error message of sbatch, taken from submitit's exception."""
    errors = [line for line in str(error).splitlines() if "sbatch: error:" in line]
    return errors[0].partition("sbatch: error:")[2].strip() if errors else one_line(error)
