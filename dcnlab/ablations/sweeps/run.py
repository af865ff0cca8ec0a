"""Runs the trials of a sweep that are missing or failed, without a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dcnlab.ablations.sweeps import local, sweep_command, sweep_file
from dcnlab.ablations.sweeps.display import Display, results_of
from dcnlab.ablations.sweeps.pace import Pace
from dcnlab.ablations.sweeps.slurm import queue_all
from dcnlab.ablations.sweeps.slurm_jobs import SlurmJobs
from dcnlab.ablations.sweeps.trial import Trial, trials_of
from dcnlab.config.path_checks import check_paths
from dcnlab.io import machine
from dcnlab.io.errors import ConfigError
from dcnlab.io.file_lock import lock
from dcnlab.io.text import say


def run(
    name: str,
    out: str | None = None,
    jobs: int | None = None,
    limit: int | None = None,
    minutes: float | None = None,
    overrides: Sequence[str] = (),
    launcher: str = "local",
    slurm: Sequence[str] = (),
    trial_minutes: float | None = None,
) -> int:
    """Run a sweep's missing trials; one that fails, or cannot even start, leaves the others alone.

    Args:
        name: path or packaged name of the sweep file.
        out: folder of the runs; None takes the experiment's own.
        jobs: trials at once; None takes one a GPU, or one a core up to four; of SLURM, as many as it runs.
        limit: start no more trials than this, and leave the rest for the next call.
        minutes: stop starting trials that cannot finish in this time, by the longest one before, and leave the rest
            for the next call. The first one always starts.
        overrides: key=value for every trial.
        launcher: local, where trials are children of this process | slurm, where they are jobs of a cluster.
        slurm: options of sbatch for every trial, key=value.
        trial_minutes: stop a trial that runs longer and count it as failed; the next call resumes it.

    Returns:
        The exit status: 0 where every trial that was started finished, 1 where one failed.

    Raises:
        ConfigError: the sweep file or the config of any trial does not hold; none was started.
        Stopped: by a signal; no trial is left running.
    """
    sweep = sweep_file.read(name)
    try:
        sweep_command.check_runnable(sweep.before)
    except ConfigError as error:
        raise ConfigError(f"{sweep.path}: {error}") from error
    arguments = [*overrides, *([f"out={out}"] if out is not None else [])]
    trials = trials_of(sweep, arguments, limit)
    for trial in trials:
        check_paths(trial.config)
        if launcher == "local" and trial.config.trainer.num_nodes > 1:
            nodes = trial.config.trainer.num_nodes
            raise ConfigError(f"trainer.num_nodes is {nodes}, and trials run on this machine; state --launcher slurm")
    for note in sweep.notes:
        say(note, file=sys.stderr)
    home = trials[0].folder.parent
    with lock(home / ".sweep.lock"):
        finished = {trial.id: finished_run for trial in trials if (finished_run := _finished(trial)) is not None}
        for trial in trials:
            complaint = results_of(trial.folder)[1]
            if complaint is not None and trial.id not in finished:
                say(complaint, file=sys.stderr)
        missing = [trial for trial in trials if trial.id not in finished]
        chosen = missing[:limit]
        elsewhere = sorted({str(folder.parent) for folder, _ in finished.values() if folder.parent != home})
        shared = f", some of them in {', '.join(elsewhere)}" if elsewhere else ""
        say(f"{sweep.title}: {len(trials)} trials in {home}, {len(finished)} finished before{shared}", flush=True)
        if not chosen:
            return 0
        pace = Pace(minutes, [seconds for _, seconds in finished.values()])
        with Display(len(trials), len(finished), len(chosen)) as display:
            for trial in trials:
                if trial.id in finished:
                    results, _ = results_of(finished[trial.id][0])
                    display.standing.take(trial, (results or {}).get("metrics", {}))
            if launcher == "slurm":
                queue = SlurmJobs(sweep.name, home, slurm, jobs)
                ended, failed = len(chosen), queue_all(sweep, chosen, queue, arguments, display)
            else:
                config = trials[0].config.trainer
                devices = config.devices if isinstance(config.devices, int) else 1
                slots = local.slots(jobs, devices, config.accelerator, machine.cpus(), len(chosen))
                ended, failed = local.run_all(sweep, chosen, slots, arguments, display, pace, trial_minutes)
    if pace.spent:
        say(f"--minutes {minutes:g} leave no time for another trial: the longest took {pace.longest / 60:.1f}")
    left = len(missing) - ended + failed
    done = f"{ended - failed} finished now, {failed} failed"
    say(done + (f"; the same command runs the {left} missing" if left else ""))
    return 1 if failed else 0


def _finished(trial: Trial) -> tuple[Path, float] | None:
    """The folder of a trial's finished run, which may be in another sweep's folder, and its seconds of training."""
    others = Path(trial.config.out).glob(f"*/{trial.id}")
    for folder in (trial.folder, *sorted(others)):
        results, _ = results_of(folder)
        if results is not None and results["status"] == "finished":
            return folder, results["cost"].get("train_seconds") or 0.0
    return None
