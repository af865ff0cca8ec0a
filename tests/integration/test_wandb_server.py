"""Sweeps, agents and runs of wandb's own commands, against a server that the tests play."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from command_line import environment
from processes import GUARD, await_, processes_of
from wandb_server import WandbServer

from dcnlab.ablations.sweeps.sweep_file import read


@pytest.fixture
def server(tiny):
    """wandb's server; when the test ends, no process may be left that works in its folder."""
    played = WandbServer()
    yield played
    played.close()
    await_(lambda: not processes_of(Path.cwd()))
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
        text = process.communicate(timeout=GUARD)[0].decode()
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


def test_synced_trials_keep_project_group_and_commit(server, wandb):
    """`dcnlab sweep` hands wandb no ID of a sweep; the digest, the file's project, commit and log arrive."""
    tree = {"program": "tiny.yaml", "command": ["dcnlab", "fit", "${program}", "${args_json_file}"], "method": "grid"}
    tree |= {"project": "mine", "entity": "my-team", "parameters": {"seed": {"value": 3}}}
    Path("ablation.yaml").write_text(yaml.safe_dump(tree))
    logs = "test.expected={top1: [0, 100]}"
    end(wandb("dcnlab", "sweep", "ablation.yaml", logs, WANDB_TAGS="one, two", WANDB_NOTES="a note"))
    folders = [str(path) for path in Path("runs/ablation").glob("*/wandb/offline-run-*")]
    assert not server.operations
    text = end(wandb("wandb", "sync", *folders))
    [run] = server.runs.values()
    digest = read("ablation.yaml").id
    assert (run.state, run.project, run.entity, run.latest("sweep")) == ("finished", "mine", "my-team", None), text
    assert (run.latest("groupName"), run.values["dcnlab_sweep"]) == (f"ablation-{digest}", digest)
    assert (run.latest("tags"), run.latest("notes")) == (["one", "two", f"sweep-{digest}"], "a note")
    assert run.latest("commit") == json.loads(run.summary["dcnlab_results"])["environment"]["git"]
    assert json.loads(run.files["wandb-metadata.json"])["args"][:2] == ["fit", "tiny.yaml"]
    assert {row["trainer/global_step"] for row in run.history if "train/loss" in row} == {0, 1}
    assert any("top1" in line for line in run.lines["output.log"])


def test_an_ended_agents_trial_is_resumed_as_the_same_run(server, wandb, new_sweep):
    """SIGTERM to the agent leaves no rank; the next agent resumes the run with its whole config, and steps continue."""
    long = ["trainer.max_steps=100000", "trainer.checkpoint_every=0", "trainer.devices=2"]
    long += ["data.val=null", "test.pictures=0"]
    path = new_sweep({"seed": {"values": [5]}}, *long, macro="${args}")
    agent = wandb("wandb", "agent", path)
    await_(lambda: list(Path("runs").rglob("last.ckpt")))
    agent.terminate()
    agent.wait(GUARD)
    await_(lambda: not processes_of(Path.cwd()))
    [run] = server.runs.values()
    assert (run.state, run.preempting) == ("preempted", True)
    assert server.sweeps[run.latest("sweep")].waiting[0]["args"].keys() > {"trainer", "dcnlab_config", "_wandb"}
    [checkpoint] = Path("runs").rglob("last.ckpt")
    last = torch.load(checkpoint, weights_only=True)["global_step"] + 1
    sweep = server.sweeps[run.latest("sweep")]
    sweep.text = sweep.text.replace("trainer.max_steps=100000", f"trainer.max_steps={last + 1}")
    text = end(wandb("wandb", "agent", path))
    assert f"resuming from step {last - 1}" in text
    assert [one.name for one in server.runs.values()] == [run.name]
    assert run.state == "finished"
    results = json.loads(run.summary["dcnlab_results"])
    assert (results["parameters"], results["environment"]["world_size"]) == ({"seed": 5}, 2)
    steps = [row["_step"] for row in run.history]
    assert steps == sorted(set(steps))
    assert [row for row in run.history if row.get("trainer/global_step") == last]
