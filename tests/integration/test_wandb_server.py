"""Sweeps, agents and runs of wandb's own commands, against a server that the tests play."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from command_line import complaints, environment
from processes import GUARD, await_, children_of, name_of, processes_of
from wandb_server import CLI, WandbServer
from warm_python import WarmPopen

from dcnlab.ablations.sweeps.sweep_file import read
from dcnlab.config.load import load_experiment, to_yaml


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
    """A function that starts wandb's command or ours, and gives its process."""

    def start(program, *words, **more):
        variables = environment(**server.environment(Path.cwd()), **more)
        command = {"wandb": ["-P", "-c", CLI], "dcnlab": ["-P", "-m", "dcnlab"]}[program]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return WarmPopen([sys.executable, *command, *words], env=variables, **pipes)

    return start


@pytest.fixture
def new_sweep(server, wandb):
    """A function that creates a sweep of the tiny experiment by `wandb sweep`, and gives its path."""

    def create(parameters, *words, start=("dcnlab",), macro="${args_json_file}", **changes):
        command = ["${env}", *start, "fit", "${program}", *words, macro]
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


def set_trainer(**values):
    """Change the trainer's keys for trials that start from now on."""
    tree = yaml.safe_load(Path("tiny.yaml").read_text())
    tree["trainer"] |= values
    Path("tiny.yaml").write_text(yaml.safe_dump(tree))


def checkpoint(run):
    """The last checkpoint of a trial."""
    return Path("runs/tiny") / run / "checkpoints/last.ckpt"


def ranks_of(agent):
    """Numbers of the processes that train an agent's trial; rank 0 has started the others."""
    [rank_0] = [child for child in children_of(agent.pid) if name_of(child) == "python"]
    return [rank_0, *(child for child in children_of(rank_0) if name_of(child) == "python")]


@pytest.mark.timeout(1800)
def test_two_agents_bring_four_trials_through_every_end(server, wandb, new_sweep):
    """Trials end by their agent's SIGTERM, a stop, kill -9 and by themselves: one wandb run each, with its results."""
    set_trainer(max_steps=100000, checkpoint_every=0, devices=2)
    words = ["data.batch_size=8", "data.val=null", "test.pictures=0"]
    path = new_sweep(
        {"model": {"parameters": {"deform_layers": {"values": [0, 1]}}}, "seed": {"values": [0, 1]}}, *words
    )
    trials = [f"{path.rpartition('/')[2]}-{number}" for number in range(4)]
    first = wandb("wandb", "agent", path)
    await_(checkpoint(trials[0]).exists)
    ranks = ranks_of(first)
    assert len(ranks) == 2
    for rank in ranks:  # so that the trial has few steps when it is resumed
        os.kill(rank, signal.SIGSTOP)
    set_trainer(devices=1)
    second = wandb("wandb", "agent", path)
    await_(checkpoint(trials[1]).exists)
    server.stop(trials[1])
    await_(checkpoint(trials[2]).exists)

    for rank in ranks:
        os.kill(rank, signal.SIGCONT)
    first.terminate()
    first.communicate(timeout=GUARD)
    await_(lambda: server.runs[trials[0]].state == "preempted")
    await_(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks))
    step = torch.load(checkpoint(trials[0]), weights_only=True)["global_step"]
    set_trainer(max_steps=step + 2, devices=2)
    [killed] = ranks_of(second)
    os.kill(killed, signal.SIGKILL)
    resumed = checkpoint(trials[0]).stat().st_mtime_ns
    await_(lambda: checkpoint(trials[0]).stat().st_mtime_ns > resumed)  # both ranks have read their settings
    set_trainer(devices=1)
    with server.away():
        time.sleep(3)
    text = end(second)

    step = torch.load(checkpoint(trials[2]), weights_only=True)["global_step"]
    online = {"WANDB_MODE": "online"}
    end(wandb("dcnlab", "resume", f"runs/tiny/{trials[2]}", f"trainer.max_steps={step + 1}", **online))
    assert sorted(server.runs) == trials, text
    assert {run.project for run in server.runs.values()} == {"ours"}
    assert [server.runs[name].state for name in trials] == ["finished", "failed", "finished", "finished"], text
    for number, name in enumerate(trials):
        results = json.loads(server.runs[name].summary["dcnlab_results"])
        assert results["status"] == ("interrupted" if number == 1 else "finished")
        assert results["parameters"] == {"model.deform_layers": number // 2, "seed": number % 2}
        assert server.runs[name].values["dcnlab_row"] == f"model.deform_layers={number // 2}"  # of every seed
        steps = [row["_step"] for row in server.runs[name].history]
        assert steps == sorted(set(steps))
    assert "resuming from step" in text


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


def test_torchrun_under_an_agent_makes_one_run(server, wandb, new_sweep):
    """Both ranks take the agent's run ID, and SIGKILL of torchrun ends them, which it would otherwise leave behind."""
    set_trainer(max_steps=100000, checkpoint_every=0, devices=2)
    torchrun = ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", "dcnlab"]
    words = ["data.batch_size=8", "data.val=null"]
    trial = new_sweep({"seed": {"values": [5]}}, *words, start=torchrun, macro="${args}").rpartition("/")[2] + "-0"
    agent = wandb("wandb", "agent", "/".join(["team", "ours", trial[:-2]]))
    await_(checkpoint(trial).exists)
    [started] = [child for child in children_of(agent.pid) if name_of(child) != "wandb-core"]
    os.kill(started, signal.SIGKILL)
    end(agent)
    assert torch.load(checkpoint(trial), weights_only=True)["dcnlab"]["processes"] == 2
    assert [list(server.runs), os.listdir("runs/tiny")] == [[trial], [trial]]


def test_a_server_that_stays_away_gets_the_run_later(server, wandb):
    """One line names the command that sends the rest; the run keeps its results and ends with 0."""
    set_trainer(max_steps=20, checkpoint_every=0)
    online = {"WANDB_MODE": "online", "WANDB_FINISH_TIMEOUT": "1"}
    run = wandb("dcnlab", "fit", "tiny.yaml", "id=one", "data.val=null", "test.pictures=0", **online)
    await_(Path("runs/tiny/one/metrics.csv").exists)
    server.close()
    text = end(run)
    server.start()
    [line, folder] = [line for line in complaints(text) if not line.startswith("wandb: ")]
    assert (line[:32], folder) == ("wandb's server does not answer (", "runs/tiny/one")
    end(wandb(*shlex.split(line.split("`")[1])))
    [arrived] = server.runs.values()
    assert arrived.state == "finished"
    results = json.loads(Path("runs/tiny/one/results.json").read_text())
    assert json.loads(arrived.summary["dcnlab_results"]) == results
    assert results["status"] == "finished"


def test_a_table_sent_to_wandb_has_the_means(server, wandb):
    """`dcnlab table --to-wandb` makes one run with table and chart; sent again, it is the same run."""
    for layers, seed, top1 in ((0, 0, 70), (0, 1, 80), (2, 0, 90), (2, 1, 90)):
        swept = {"model.deform_layers": layers, "seed": seed}
        folder = Path(f"runs/tiny/{layers}-{seed}")
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(
            to_yaml(load_experiment("tiny.yaml", [f"{key}={value}" for key, value in swept.items()]))
        )
        results = {"schema": 1, "name": "tiny", "status": "finished", "seed": seed, "parameters": swept, "model": {}}
        results |= {"metrics": {"top1": top1}, "cost": {}, "environment": {"git": "abc"}, "wandb": None}
        (folder / "results.json").write_text(json.dumps(results))
    for _ in range(2):
        text = end(wandb("dcnlab", "table", "tiny", "--to-wandb", "team/ours", "--format", "csv"))
    [run] = server.runs.values()
    assert (run.project, run.state, run.values["dcnlab_table"]) == ("ours", "finished", "tiny")
    assert f"sent to {server.url}/team/ours/runs/{run.name}" in text
    files = {name: json.loads(file) for name, file in run.files.items() if name.startswith("media/table/")}
    sent = {re.sub("media/table/(.+?)(_table)?_[0-9]+_.*", r"\1", name): content for name, content in files.items()}
    table = [dict(zip(sent["table"]["columns"], row, strict=True)) for row in sent["table"]["data"]]
    assert [(row["model.deform_layers"], row["top1"], row["seeds"]) for row in table] == [(0, 75, 2), (2, 90, 2)]
    assert sent["chart/top1"]["data"] == [["model.deform_layers=0", 75], ["model.deform_layers=2", 90]]
