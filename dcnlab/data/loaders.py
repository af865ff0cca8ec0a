"""Loader processes: the folder of their sockets, which is removed even after a kill, and the signals they ignore.

multiprocessing makes such a folder itself (`pymp-*`), and leaves it where a process is killed. Ours is locked by every
process that may use it. The system releases the locks of dead processes, so an unlocked folder belongs to no run.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing.process
import os
import shutil
import signal
import tempfile
import threading
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

PREFIX = "dcnlab-sockets-"


def claim_folder() -> Path:
    """Make this process's folder, once, for itself and the loader processes that it forks; remove those left over.

    Returns:
        The folder; multiprocessing's own where it has made one already.
    """
    config: Any = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    if config.get("tempdir") is None:
        _remove_left_over(Path(tempfile.gettempdir()))
        path = _locked()
        Finalize(None, shutil.rmtree, args=(path,), kwargs={"ignore_errors": True}, exitpriority=-100)
        config["tempdir"] = path
    return Path(config["tempdir"])


def begin(worker: int) -> None:
    """Set up a loader process: seed it as Lightning does, and ignore the signals that end the run.

    A terminal and most schedulers send a signal to all processes of a run. The training needs its loaders to finish the
    step, and ends them itself.

    Args:
        worker: number of the process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_run_asks, args=(os.getppid(),), daemon=True, name="signals").start()
    if os.environ.get("PL_SEED_WORKERS", "0") != "0":
        from lightning_fabric.utilities.seed import pl_worker_init_function

        pl_worker_init_function(worker)


def _end_when_the_run_asks(run: int) -> None:
    """End this process at a SIGTERM of the run's process, and drop those of others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)


def _locked() -> str:
    """A new folder, locked until the last process that inherits the lock ends."""
    while True:
        path = tempfile.mkdtemp(prefix=PREFIX)
        try:  # until it is locked, another process may take it for one left over, and remove it
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.isdir(path):
            return path
        os.close(descriptor)


def _remove_left_over(place: Path) -> None:
    """Remove folders of ours that no process locks; deletes only the sockets in them."""
    for path in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for entry in path.iterdir():
                        if entry.is_socket():
                            entry.unlink()
                    path.rmdir()
            finally:
                os.close(descriptor)
