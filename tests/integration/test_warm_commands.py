"""The tests' commands are forked from a Python that has imported dcnlab, whatever ran in the tests' process before."""

import os
import sys

import command_line
import pytest
from warm_python import WarmPopen

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
