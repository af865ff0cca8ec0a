"""What torch, Lightning and SLURM would refuse with a traceback is one line, before the run has a folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.utilities import rank_zero
from small_experiments import write_data

from dcnlab.config.load import load_experiment
from dcnlab.io.errors import ConfigError
from dcnlab.training import process_death
from dcnlab.training import run as runs
from dcnlab.training.build_network import task_module
from dcnlab.training.distributed import slurm_variables
from dcnlab.training.parts import build
from dcnlab.training.preflight import check_kernels
from dcnlab.training.run import restore
from dcnlab.training.run_folder import RunFolder

BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
"""Variables of a batch script, to which its #SBATCH options add."""
SRUN = {**BATCH, "SLURM_STEP_ID": "0"}
TORCHRUN = {"LOCAL_RANK": "0", "RANK": "0"}


def fit(path, *overrides):
    return runs.fit(load_experiment(path, ["logger.wandb=false", "id=one", *overrides]))


def assert_refused(path, overrides, says):
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        fit(path, *overrides)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.batch_size=1"], "data.batch_size is 1, and of an image of 8x8 the batch norm layer"),
        (["data.train_length=1"], "data.train has 1 images for each of 1 processes, and of an image of 8x8"),
        (["data.batch_size=1", "model.deform_layers=2", "model.modulated=true"], "sees a map of 1x1: one value"),
    ],
)
def test_batch_norm_over_one_value_is_refused(tiny, overrides, says):
    """One image of 8x8 pixels gives a map of one value, whose variance is undefined."""
    assert_refused(tiny, ["data.image_size=8", *overrides], says)


@pytest.mark.parametrize("name", ["segmentation", "detection"])
def test_frozen_norms_accept_one_value(tmp_path, monkeypatch, name):
    """A batch of one small image is allowed where no norm computes statistics."""
    monkeypatch.chdir(tmp_path)
    write_data()
    small = ["data.shorter_side=16", "data.batch_size=1"]
    config = load_experiment(f"{name}.yaml", [*small, "logger.wandb=false"])
    build(config, RunFolder(Path("runs/x")))
    config.model.backbone.freeze_norm, config.data.shorter_side = False, None  # 8x8 and more
    build(config, RunFolder(Path("runs/x")))


@pytest.mark.parametrize("overrides", [["data.image_size=28"], ["data.image_size=8", "data.batch_size=2"]])
def test_two_values_are_enough_for_batch_norm(tiny, overrides):
    """A larger image or a second one must not be refused."""
    assert (
        RunFolder(fit(tiny, "data.batch_size=1", "trainer.max_steps=1", *overrides)).read_results()["status"]
        == "finished"
    )


def srun(count, layout, **more):
    """Variables of the first of `count` tasks of an srun."""
    nodes = str(layout.count(",") + 1 if "x" not in layout else 2)
    step = {"NTASKS": count, "STEP_NUM_TASKS": count, "STEP_NUM_NODES": nodes, "STEP_TASKS_PER_NODE": layout}
    return {**SRUN, **{f"SLURM_{name}": value for name, value in {**step, **more}.items()}}


ONE_PROCESS = "and trainer.devices 1 x trainer.num_nodes 1 are 1 process; state "


@pytest.mark.parametrize(
    ("variables", "overrides", "says"),
    [
        (srun("2", "2"), [], f"srun started 2 tasks (SLURM_NTASKS) on 1 machine (SLURM_NNODES), {ONE_PROCESS}"),
        (srun("2", "1(x2)"), [], "state trainer.devices=1 trainer.num_nodes=2, or srun --nodes=1 --ntasks-per-node=1"),
        (srun("2", "1(x2)"), ["trainer.devices=2"], "are 2 processes; state trainer.devices=1 trainer.num_nodes=2"),
        (srun("3", "2,1"), ["trainer.devices=3"], "SLURM_STEP_TASKS_PER_NODE is 2,1; each machine needs the same"),
        (srun("two", "1", STEP_NUM_TASKS="two"), [], "SLURM_STEP_NUM_TASKS is 'two'; SLURM sets it to a whole number"),
        (srun("2", "2", LOCALID="x"), ["trainer.devices=2"], "SLURM_LOCALID is 'x'; SLURM sets it to a whole number"),
        ({**BATCH, "SLURM_NTASKS": "2"}, [], f"SLURM_NTASKS is 2, {ONE_PROCESS}trainer.devices=2, or ask sbatch"),
        ({**BATCH, "SLURM_NTASKS": "x"}, [], "SLURM_NTASKS is 'x'; SLURM sets it to a whole number"),
        (BATCH, ["trainer.num_nodes=2"], "one process of SLURM job 7 started, and trainer.devices 1 x trainer.num_nod"),
        (
            {**BATCH, "SLURM_NTASKS": "4", "SLURM_NNODES": "2"},
            ["trainer.devices=2"],
            "state trainer.devices=2 trainer.num_nodes=2 and start it by srun, or ask sbatch for --ntasks=1",
        ),
    ],
)
def test_slurm_tasks_must_match_devices_and_nodes(tiny, monkeypatch, variables, overrides, says):
    """One line names what SLURM started and what the config asks for."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert_refused(tiny, overrides, says)


BY_HAND = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    "variables",
    [
        {**BY_HAND, "SLURM_JOB_NAME": "train"},
        {**SRUN, **BY_HAND, "SLURM_JOB_NAME": "bash"},
        {**SRUN, **BY_HAND, "SLURM_STEP_NUM_TASKS": "1"},
        {**SRUN, **BY_HAND, "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3", "WANDB_SWEEP_ID": "abc"},
    ],
    ids=["salloc", "srun --pty bash", "salloc's shell on a machine", "an agent as task 3"],
)
def test_a_jobs_tasks_are_not_those_of_every_command(tiny, monkeypatch, variables):
    """In a user's shell, and under an agent that is a task itself, one process starts its ranks, as rank 0."""
    with subprocess.Popen(["sleep", "60"]) as task:  # the task that srun started, not at a terminal
        for name, value in {**variables, "SLURM_TASK_PID": str(task.pid)}.items():
            monkeypatch.setenv(name, value)
        slurm_variables.forget_task()
        config = load_experiment(tiny, ["trainer.devices=2", "data.batch_size=8", "logger.wandb=false"])
        trainer = build(config, RunFolder.of(config)).trainer
        assert (trainer.world_size, trainer.global_rank) == (2, 0)
        assert isinstance(trainer.strategy.cluster_environment, LightningEnvironment)
        assert rank_zero._get_rank() in (None, 0)
        task.kill()


def test_srun_tasks_of_an_agents_trial_are_ranks(tiny, monkeypatch):
    """An agent's command may begin with srun, whose tasks then share the trial."""
    with subprocess.Popen(["sleep", "60"], env={"WANDB_SWEEP_ID": "abc"}) as task:
        monkeypatch.setattr(rank_zero.rank_zero_only, "rank", 0)  # restored after the test
        for name, value in srun("2", "2", PROCID="1", LOCALID="1", TASK_PID=str(task.pid)).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
        monkeypatch.setenv("WANDB_RUN_ID", "trial")
        slurm_variables.forget_task()
        config = load_experiment(tiny, ["trainer.devices=2", "data.batch_size=8", "logger.wandb=false"])
        trainer = build(config, RunFolder.of(config)).trainer
        assert (trainer.world_size, trainer.global_rank, config.id) == (2, 1, "trial")
        task.kill()


def test_restoring_ignores_the_jobs_task_count(tiny, monkeypatch):
    """Inside a job of eight tasks a run can still be loaded in one process."""
    folder = fit(tiny)
    for name, value in srun("8", "8").items():
        monkeypatch.setenv(name, value)
    restore(folder, [])


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK"])
def test_a_rank_left_over_from_another_launcher_is_refused(tiny, monkeypatch, name):
    """Such a run would train and leave no config.yaml and no metrics.csv."""
    # Without ranks 0 and a world size it would train, and leave no config.yaml and no metrics.csv.
    monkeypatch.setenv(name, "1")
    with pytest.raises(
        ConfigError, match=rf"^{name} is 1, and trainer.devices 1 x trainer.num_nodes 1 leave it 0 to 0"
    ):
        runs.fit(load_experiment(tiny, []))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({**TORCHRUN, "WORLD_SIZE": "2"}, "WORLD_SIZE is 2, and trainer.devices 1 x trainer.num_nodes 1 are 1 process"),
        ({**TORCHRUN, "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_WORLD_SIZE is 2, and trainer.devices 1 x"),
        ({**TORCHRUN, "WORLD_SIZE": "x"}, "WORLD_SIZE is 'x'; a launcher sets it to a whole number"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is 70000; it must be between 1 and 65535"),
    ],
)
def test_torchrun_processes_must_match_the_config(tiny, monkeypatch, variables, says):
    """WORLD_SIZE and MASTER_PORT that do not fit the config give one line."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DCNLAB_RUN_ID", "one")
    assert_refused(tiny, [], says)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["trainer.accelerator=gpu"], "trainer.accelerator is 'gpu', and torch finds no GPU here"),
        (
            ["trainer.precision=16-mixed"],
            "trainer.precision is '16-mixed', which needs a GPU; on a CPU take bf16-mixed",
        ),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_settings_that_need_a_missing_gpu_are_refused(tiny, overrides, says):
    """Without a GPU: trainer.accelerator=gpu, and 16-mixed, with the precision to take instead."""
    assert_refused(tiny, overrides, says)


def test_more_gpus_than_there_are_are_refused(tiny, monkeypatch):
    """trainer.devices is compared with the GPUs that torch finds."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert_refused(
        tiny, ["trainer.accelerator=gpu", "trainer.devices=8"], "trainer.devices is 8, and torch finds 2 GPUs"
    )


def test_an_out_of_memory_run_names_the_sizes(tiny):
    """The error names data.batch_size and data.image_size, and results.json says failed."""
    with pytest.raises(
        ConfigError, match=r"out of memory: data\.batch_size is 16, data\.image_size is 4000000; smaller"
    ):
        fit(tiny, "data.image_size=4000000")
    found = RunFolder(Path("runs/tiny/one")).read_results()
    assert found["status"] == "failed"


def test_torchs_out_of_memory_errors_are_recognized():
    """CPU allocation and CUDA errors count, other RuntimeErrors do not."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert process_death.is_out_of_memory(caught.value)
    assert process_death.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not process_death.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("hip", "says"),
    [
        (None, "dcnlab's operators on CUDA tensors need CuPy: pip install cupy-cuda13x (importing it failed: "),
        ("6.4", "AMD GPUs are not supported (torch is built for ROCm 6.4); dcnlab's operators run on NVIDIA GPUs"),
    ],
)
@pytest.mark.parametrize("accelerator", ["auto", "gpu"])
def test_a_gpu_without_our_operators_is_refused_at_once(tiny, monkeypatch, accelerator, hip, says):
    """Without CuPy, or with ROCm, a GPU run stops before training and names trainer.accelerator=cpu."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setitem(sys.modules, "cupy", None)
    overrides = ["model.deform_layers=1", f"trainer.accelerator={accelerator}"]
    assert_refused(tiny, overrides, says)
    with pytest.raises(ConfigError, match=r"; trainer\.accelerator=cpu does without$"):
        fit(tiny, *overrides)


def test_cpu_runs_and_plain_networks_need_no_cupy(tiny, monkeypatch):
    """Only a network with our operators on a GPU needs CuPy."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setitem(sys.modules, "cupy", None)
    task = task_module(load_experiment(tiny, ["model.deform_layers=1"]), ["a", "b"])
    plain = task_module(load_experiment(tiny, []), ["a", "b"])
    run = load_experiment(tiny, ["trainer.accelerator=auto"]).trainer
    check_kernels(run, plain)
    check_kernels(load_experiment(tiny, []).trainer, task)
    with pytest.raises(ConfigError, match="need CuPy"):
        check_kernels(run, task)
