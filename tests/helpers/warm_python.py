"""A Python that has imported the command line and forks a process for each command: the import is paid once.

The process is as fresh as one that has just imported dcnlab: nothing of it has run, its environment, folder and pipes
are the caller's, and it is the caller's child. `subprocess.Popen` starts it, waits for it and signals it as any other.
It ends after its threads and exit functions, without taking torch's modules apart, which is half a second's work.

A command that starts commands, as a sweep or wandb's agent starts trials and rank 0 the other ranks, gets a warm
Python as its child: forked before the command runs, it forks those commands.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
NAME = "warm python"
"""Name of the warm Pythons in /proc/NUMBER/comm."""
IMPORTED = (
    "wandb",
    "wandb._analytics",
    "wandb.apis.public",
    "wandb.sdk.launch",
    "wandb.sdk.launch.sweeps.scheduler",
    "wandb.sdk.lib.gitlib",
    "wandb.wandb_run",
    "dcnlab.cli.main",
    "dcnlab.training.run",
    "dcnlab.data.classification.data_module",
    "dcnlab.data.detection.data_module",
    "dcnlab.data.digits.data_module",
    "dcnlab.data.segmentation.data_module",
    "dcnlab.models.class_aware_rpn",
    "dcnlab.models.deeplab",
    "dcnlab.models.fpn",
    "dcnlab.models.resnet",
    "dcnlab.models.rfcn",
    "dcnlab.ops.cpu.deform_conv2d",
    "dcnlab.ops.cpu.roi_pool",
    "dcnlab.tasks.classification",
    "dcnlab.tasks.detection",
    "dcnlab.tasks.segmentation",
)
"""Modules that a command imports when it starts or trains."""


UNREAD = re.compile(
    "(DCNLAB|MASTER|SLURM|WANDB)_(?!INSECURE).*|(LOCAL_|NODE_)?RANK|WORLD_SIZE|(MKL|NUMBA|OMP|OPENBLAS)_NUM_THREADS"
    "|CUBLAS_WORKSPACE_CONFIG|PATH|PL_GLOBAL_SEED|PL_SEED_WORKERS|PYTORCH_NVML_BASED_CUDA_CHECK|TORCH_CPP_LOG_LEVEL"
    "|TORCHINDUCTOR_CACHE_DIR|PYTEST_CURRENT_TEST"
)
"""Variables that no import reads, or whose value `_become` sets anew; trials state their threads by trainer.threads."""


def can_fork(environment: Mapping[str, str], warm: Mapping[str, str]) -> bool:
    """Whether a Python started in the environment would import the same as the warm one."""
    kept = []
    for variables in (environment, warm):
        same = {name: value for name, value in variables.items() if not UNREAD.fullmatch(name)}
        same["PYTHONPATH"] = {path for path in same.get("PYTHONPATH", "").split(os.pathsep) if path}
        kept.append(same)
    return kept[0] == kept[1]


def parse(words: Sequence[str]) -> dict | None:
    """What `python WORDS` runs, as a part of a request; None if the warm Python cannot run it.

    It runs `[-P] -m dcnlab ARGUMENTS`, `[-P] -c CODE ARGUMENTS` and `[-P] SCRIPT.py ARGUMENTS`.
    """
    safe = words[0] == "-P"
    first, *rest = words[safe:]
    if first == "-m" and rest[0] in ("dcnlab", "dcnlab.__main__"):
        return {"kind": "module", "text": "dcnlab", "path": None if safe else "", "arguments": rest}
    if first == "-c":
        return {"kind": "code", "text": rest[0], "path": None if safe else "", "arguments": ["-c", *rest[1:]]}
    if first.endswith(".py"):
        path = None if safe else str(Path(first).parent.absolute())
        return {"kind": "script", "text": first, "path": path, "arguments": [first, *rest]}
    return None


class WarmPopen(subprocess.Popen):
    """Popen of `python ...`, as `parse` knows it, forked from the warm Python in place of a new one."""

    def _execute_child(self, args, *more):
        """Have the warm Python fork; the arguments are those of CPython's own method."""
        cwd, env = more[4], more[5]
        stdin, stdin_write, stdout_read, stdout, stderr_read, stderr = more[9:15]
        pipes = [where if where != -1 else standard for standard, where in enumerate((stdin, stdout, stderr))]
        words = [os.fspath(word) for word in args]
        assert words[0] == sys.executable, words
        request = parse(words[1:])
        assert request is not None, words
        env = dict(os.environ if env is None else env)
        alone = more[20] or more[21:22] == (0,)  # a new session is a new group of processes too
        request |= {"folder": str(cwd or Path.cwd()), "environment": env, "new_session": alone}
        try:
            self.pid = _server().fork(request, pipes)
        finally:
            self._close_pipe_fds(stdin, stdin_write, stdout_read, stdout, stderr_read, stderr)
        self._child_created = True


class _NestedPopen(WarmPopen):
    """Popen in a process that was forked itself: warm where that changes nothing."""

    def _execute_child(self, args, *more):
        words = [args] if isinstance(args, str | bytes | os.PathLike) else [os.fsdecode(word) for word in args]
        if words[:2] == ["/usr/bin/env", "dcnlab"]:  # as an agent starts a trial
            words[:2] = [sys.executable, "-P", "-m", "dcnlab"]
        env = os.environ if more[5] is None else more[5]
        if words[0] == sys.executable and parse(words[1:]) and can_fork(env, _server().environment):
            super()._execute_child(words, *more)
        else:
            super(WarmPopen, self)._execute_child(args, *more)


def _prctl(option: int, value: int | bytes) -> None:
    assert ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0


class _Server:
    """A warm Python at the other end of a socket, which is a child of this process."""

    def __init__(self, connection: socket.socket, environment: dict[str, str]) -> None:
        self._socket = connection
        self.environment = environment

    def fork(self, request: dict, pipes: list[int]) -> int:
        """Number of the new process, which is this process's child.

        The process that forks it ends at once. Its orphan falls to the nearest ancestor that asks for orphans: this
        one, which asks until it has it, so that other orphans of a test fall to init as they do for users.
        """
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            text = json.dumps(request).encode()
            socket.send_fds(self._socket, [len(text).to_bytes(8, "little")], pipes)
            self._socket.sendall(text)
            return int.from_bytes(self._socket.recv(8, socket.MSG_WAITALL), "little")
        finally:
            _prctl(PR_SET_CHILD_SUBREAPER, 0)


_started: list[_Server] = []


def _server() -> _Server:
    """This process's warm Python, started at the first command of the tests."""
    if not _started:
        import command_line

        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]
        pipes = {"pass_fds": [theirs.fileno()], "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=command_line.USUAL, cwd="/", **pipes)
        theirs.close()
        _started.append(_Server(ours, command_line.USUAL))
        atexit.register(lambda: (ours.close(), process.wait(600)))
    return _started[0]


def _serve(connection: socket.socket) -> None:
    """Fork a process for each request, until the caller closes the connection."""
    while True:
        size, pipes, _, _ = socket.recv_fds(connection, 8, 3)
        if not size:
            return
        text = connection.recv(int.from_bytes(size, "little"), socket.MSG_WAITALL)
        read, write = os.pipe()
        middle = os.fork()
        if middle == 0:
            middle = os.getpid()
            child = os.fork()
            if child == 0:
                for pipe in (read, write, connection.detach()):
                    os.close(pipe)
                while os.getppid() == middle:  # it belongs to the caller once the middle process has ended
                    time.sleep(0.001)
                _become(json.loads(text), pipes)
            os.write(write, child.to_bytes(8, "little"))
            os._exit(0)
        os.waitpid(middle, 0)  # so that the child is the caller's before the caller knows its number
        connection.sendall(os.read(read, 8))
        pipes += [read, write]
        for pipe in pipes:
            os.close(pipe)


def _keep_warm(pipes: list[int], environment: dict[str, str]) -> None:
    """Fork a warm Python that serves this process and ends with it.

    Args:
        pipes: that it does not keep.
        environment: of this process, from which that of its commands differs little.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for pipe in (*pipes, ours.detach()):
            os.close(pipe)
        _serve(theirs)
        os._exit(0)
    theirs.close()
    _started.append(_Server(ours, environment))
    subprocess.Popen = _NestedPopen


_FOLDERS: list[tempfile.TemporaryDirectory] = []
"""Folders that imported modules made, such as wandb's for pictures."""


def _become(request: dict, pipes: list[int]) -> None:
    """Turn this process into the one of the request, and end it."""
    if request["new_session"]:
        os.setsid()
    words = request["arguments"]
    if words[1:2] in (["sweep"], ["agent"]) or re.search(r" trainer\.devices=[2-9]", " ".join(words)):
        _keep_warm(pipes, request["environment"])
    _prctl(PR_SET_NAME, b"python")
    for standard, pipe in enumerate(pipes):
        os.dup2(pipe, standard)
    for pipe in set(pipes) - {0, 1, 2}:
        os.close(pipe)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _set_ranks()
    tempfile.tempdir = None
    for folder in _FOLDERS:  # a process removes its folders when it ends: it must not remove those of the warm Python
        folder._finalizer.detach()
        folder.__init__()
    sys.argv = request["arguments"]
    sys.path[:0] = [] if request["path"] is None else [request["path"]]
    try:
        _run(request)
        status = None
    except SystemExit as exit:
        status = exit.code
    _end(status)


def _run(request: dict) -> None:
    """Run the module, script or code of a request as a new Python would."""
    if request["kind"] == "module":
        runpy.run_module(request["text"], run_name="__main__", alter_sys=True)
    elif request["kind"] == "script":
        runpy.run_path(request["text"], run_name="__main__")
    else:
        main = type(sys)("__main__")
        sys.modules |= {"__main__": main, "warm_python": sys.modules["__main__"]}
        exec(compile(request["text"], "<string>", "exec"), main.__dict__)


def _end(status: object) -> None:
    """End this process as `sys.exit(status)` does, but leave its modules to the system."""
    if status is None or isinstance(status, int):
        threading._shutdown()
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):  # Python itself reports a closed pipe, below
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit((status or 0) & 0xFF)
    sys.exit(status)


def _set_ranks() -> None:
    """Set the ranks that Lightning and torchmetrics read from the environment when they are imported."""
    from lightning_fabric.utilities import rank_zero
    from torchmetrics.utilities import prints

    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0
    prints.rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", 0))


if __name__ == "__main__":
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the command line sets it before torch is imported
    _prctl(PR_SET_NAME, NAME.encode())
    for name in IMPORTED:
        __import__(name)
    sys.modules["numba"].njit(lambda: 0)()  # numba sets itself up for the first function, for a fifth of a second
    assert len(os.listdir("/proc/self/task")) == 1, "a fork of a process with threads may hang"
    gc.collect()
    _FOLDERS += [thing for thing in gc.get_objects() if type(thing) is tempfile.TemporaryDirectory]
    gc.freeze()  # what was imported stays out of the collections that a process makes, and its memory shared
    _serve(socket.socket(fileno=int(sys.argv[1])))
