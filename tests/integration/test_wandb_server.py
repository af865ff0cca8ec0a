"""Sweeps, agents and runs of wandb's own commands, against a server that the tests play."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from command_line import environment
from processes import await_, processes_of
from wandb_server import WandbServer

SECONDS = 240
"""For a command of wandb's to end, on a loaded machine."""


@pytest.fixture
def server(tiny):
    """wandb's server; when the test ends, no process may be left that works in its folder."""
    played = WandbServer()
    yield played
    played.close()
    await_(lambda: not processes_of(Path.cwd()), 30)
    assert not played.unknown


@pytest.fixture
def wandb(server):
    """A function that starts wandb's command, and gives its process."""

    def start(*words, **more):
        variables = environment(**server.environment(Path.cwd()), **more)
        program = Path.cwd() / "bin" / words[0]
        return subprocess.Popen([program, *words[1:]], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return start


@pytest.fixture
def new_sweep(server, wandb):
    """A function that creates a sweep of the tiny experiment by `wandb sweep`, and gives its path."""

    def create(parameters, *words, macro="${args_json_file}", **changes):
        command = ["${env}", "dcnlab", "fit", "${program}", *words, macro]
        tree = {"program": "tiny.yaml", "command": command, "method": "grid", "project": "ours", **changes}
        Path("sweep.yaml").write_text(yaml.safe_dump({**tree, "parameters": parameters}))
        end(wandb("wandb", "sweep", "sweep.yaml"))
        sweep = list(server.sweeps.values())[-1]
        return f"{sweep.entity}/{sweep.project}/{sweep.name}"

    return create


def end(process, status=0):
    """Wait for a process, and give what it printed."""
    try:
        text = process.communicate(timeout=SECONDS)[0].decode()
    except BaseException:
        process.kill()
        raise
    assert process.returncode == status, text
    return text


def test_an_agent_trains_every_trial_of_a_sweep(server, wandb, new_sweep):
    """Two trials, of one nested parameter: each is a run of the sweep, in its project, with its results."""
    path = new_sweep({"model": {"parameters": {"deform_layers": {"values": [0, 1]}}}})
    text = end(wandb("wandb", "agent", path))
    assert [run.values["sweep"] for run in server.runs.values()] == [
        {"model.deform_layers": layers} for layers in (0, 1)
    ], text
    for run in server.runs.values():
        assert (run.state, run.project, run.latest("sweep")) == ("finished", "ours", path.rpartition("/")[2])
        assert json.loads(run.summary["dcnlab_results"])["status"] == "finished"
