"""The tests' commands are forked from a Python that has imported dcnlab, whatever ran in the tests' process before."""

import os
import sys

import command_line
import pytest
from warm_python import WarmPopen, can_fork

from dcnlab.cli import main


def test_commands_fork_warm_after_main_ran_in_this_process(monkeypatch, capsys):
    """`main` sets variables in the process that calls it; they make no later command start a new Python."""
    monkeypatch.setattr(sys, "argv", ["dcnlab", "fit", "nowhere.yaml"])
    with pytest.raises(SystemExit):
        main.main()
    assert "nowhere.yaml" in capsys.readouterr().err
    assert os.environ["TORCH_CPP_LOG_LEVEL"] == "ERROR"
    with command_line.start("--version") as process:
        assert isinstance(process, WarmPopen)
        process.communicate()


def test_only_variables_that_no_import_reads_may_differ():
    """Ranks, PATH, SLURM's and wandb's variables leave a command warm; HOME or PYTHONPATH starts it anew."""
    warm = {"HOME": "/home", "PYTHONPATH": "/code"}
    assert can_fork({**warm, "RANK": "1", "LOCAL_RANK": "1", "SLURM_PROCID": "1", "WANDB_MODE": "offline"}, warm)
    assert can_fork({**warm, "PATH": "/programs"}, warm)
    assert can_fork({**warm, "PYTHONPATH": f"/code{os.pathsep}/code"}, warm)
    assert not can_fork({**warm, "HOME": "/elsewhere"}, warm)
    assert not can_fork({**warm, "PYTHONPATH": f"/mine{os.pathsep}/code"}, warm)
    assert not can_fork({**warm, "WANDB_INSECURE_DISABLE_SSL": "true"}, warm)


def test_forked_code_and_scripts_run_as_in_a_new_python(tmp_path):
    """They see their arguments, the name __main__ and, for a script, its own folder first on the path."""
    code = "import sys; print(__name__, *sys.argv)"
    assert command_line.python("-P", "-c", code, "a", "b").stdout == "__main__ -c a b\n"
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    (tmp_path / "script.py").write_text("import sys, beside\nprint(__name__, sys.argv[1], beside.VALUE)\nsys.exit(3)\n")
    done = command_line.python(tmp_path / "script.py", "a")
    assert (done.returncode, done.stdout, done.stderr) == (3, "__main__ a 7\n", "")


ENDING = """
import atexit, sys, threading, time
atexit.register(print, "exit function")
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
STATUS
"""


@pytest.mark.parametrize(
    ("ending", "status", "err"),
    [("", 0, ""), ("sys.exit(3)", 3, ""), ("sys.exit('why')", 1, "why\n")],
    ids=["by itself", "by a number", "by a text"],
)
def test_forked_code_ends_as_in_a_new_python(ending, status, err):
    """Its threads are awaited, exit functions run, output is written, and the status is that of `sys.exit`."""
    done = command_line.python("-P", "-c", ENDING.replace("STATUS", f"time.sleep(0.3); {ending}"))
    assert (done.returncode, done.stdout, done.stderr) == (status, "thread\nexit function\n", err)


RANK = """
import os, subprocess, sys
from lightning_fabric.utilities.rank_zero import rank_zero_only
print("rank", rank_zero_only.rank, flush=True)
if rank_zero_only.rank == 0:
    words = [sys.executable, "-c", CODE, str(os.getpid())]
    child = subprocess.Popen(words, env={**os.environ, "LOCAL_RANK": "1"})
    print(type(child).__name__, child.wait(), flush=True)
else:
    print("child of rank 0:", os.getppid() == int(sys.argv[1]), flush=True)
"""


def test_a_forked_command_forks_its_ranks():
    """Rank 1 knows its rank, is the child of rank 0, and is forked as well."""
    done = command_line.python("-P", "-c", f"CODE = {RANK!r}\nexec(CODE)", "trainer.devices=2")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines == ["rank 0", "rank 1", "child of rank 0: True", "_NestedPopen 0"]
