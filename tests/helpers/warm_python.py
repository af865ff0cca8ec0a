"""A Python that has imported the command line and forks a process for each command: the import is paid once.

The process is as fresh as one that has just imported dcnlab: nothing has run in it, its environment, folder and pipes
are the caller's, and it is the caller's child. `subprocess.Popen` starts it, waits for it and signals it as any other.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
IMPORTED = (
    "wandb",
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


class WarmPopen(subprocess.Popen):
    """Popen of `python -P -m dcnlab ...`, forked from the warm Python in place of a new one."""

    def _execute_child(self, args, *more):
        """Have the warm Python fork; the arguments are those of CPython's own method."""
        cwd, env = more[4], more[5]
        stdin, stdin_write, stdout_read, stdout, stderr_read, stderr = more[9:15]
        pipes = [where if where != -1 else standard for standard, where in enumerate((stdin, stdout, stderr))]
        assert args[:4] == [sys.executable, "-P", "-m", "dcnlab"], args
        request = {"arguments": args[3:], "folder": str(cwd or Path.cwd()), "environment": dict(env)}
        try:
            self.pid = _server(env).fork(request, pipes)
        finally:
            self._close_pipe_fds(stdin, stdin_write, stdout_read, stdout, stderr_read, stderr)
        self._child_created = True


class _Server:
    """The warm Python, started at the first command."""

    def __init__(self, environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        atexit.register(self.close)

    def fork(self, request: dict, pipes: list[int]) -> int:
        """Number of the new process, which is this process's child.

        The process that forks it ends at once. Its orphan falls to the nearest ancestor that asks for orphans: this
        one, which asks until it has it, so that other orphans of a test fall to init as they do for users.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        try:
            text = json.dumps(request).encode()
            socket.send_fds(self._socket, [len(text).to_bytes(8, "little")], pipes)
            self._socket.sendall(text)
            return int.from_bytes(self._socket.recv(8, socket.MSG_WAITALL), "little")
        finally:
            libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def close(self) -> None:
        """End the warm Python."""
        self._socket.close()
        self._process.wait(60)


_started: list[_Server] = []


def _server(environment: dict[str, str]) -> _Server:
    if not _started:
        _started.append(_Server(environment))
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
            child = os.fork()
            if child == 0:
                connection.close()
                _become(json.loads(text), pipes)
            os.write(write, child.to_bytes(8, "little"))
            os._exit(0)
        os.waitpid(middle, 0)  # so that the child is the caller's before the caller knows its number
        connection.sendall(os.read(read, 8))
        pipes += [read, write]
        for pipe in pipes:
            os.close(pipe)


_FOLDERS: list[tempfile.TemporaryDirectory] = []
"""Folders that imported modules made, such as wandb's for pictures."""


def _become(request: dict, pipes: list[int]) -> None:
    """Turn this process into the one of the request, and end it."""
    for standard, pipe in enumerate(pipes):
        os.dup2(pipe, standard)
        os.close(pipe)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    for folder in _FOLDERS:  # a process removes its folders when it ends: it must not remove those of the warm Python
        folder._finalizer.detach()
        folder.__init__()
    sys.argv = request["arguments"]
    runpy.run_module("dcnlab", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the command line sets it before torch is imported
    for name in IMPORTED:
        __import__(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork of a process with threads may hang"
    gc.collect()
    _FOLDERS += [thing for thing in gc.get_objects() if type(thing) is tempfile.TemporaryDirectory]
    gc.freeze()  # what was imported stays out of the collections that a process makes, and its memory shared
    _serve(socket.socket(fileno=int(sys.argv[1])))
