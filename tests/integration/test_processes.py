"""One experiment is the same on one process and on several: figures, losses and weights."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from ports import free_port
from ranks import run_ranks
from small_experiments import COMMON, EXPERIMENTS, MIXED, write_data, write_shapes

from dcnlab.config.load import load_experiment
from dcnlab.tasks.classification import Classification
from dcnlab.training.run import evaluate, fit


def run_all(rank: int, world: int, home: str, port: int, accelerator: str, fits: bool) -> None:
    """One process of several: trains every experiment where `fits`, and scores those that one process trained."""
    os.chdir(home)
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    if world > 1:  # as a launcher does
        os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train = Classification.training_step

    def with_frozen_norms(self, batch, index):
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        return train(self, batch, index)

    Classification.training_step = with_frozen_norms
    try:
        for name in EXPERIMENTS:
            where = [f"trainer.devices={world}", f"trainer.accelerator={accelerator}"]
            if fits:
                fit(load_experiment(f"{name}.yaml", [f"id=on{world}", *where]))
            for split in ("test", "pair"):
                found = evaluate(Path("runs") / name / "on1", [*where, f"data.test={split}"])
                if rank == 0:
                    Path(f"{name}-{split}-on{world}.json").write_text(json.dumps(found))
    finally:
        Classification.training_step = train


@pytest.fixture(scope="module", params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def home(request, tmp_path_factory):
    """What 1, 2 and 3 processes made of the same experiments: over gloo, or over NCCL with a GPU each."""
    gpus = torch.cuda.device_count()
    if request.param == "gpu" and gpus < 3:
        pytest.skip(f"needs three CUDA GPUs, there are {gpus}")
    home, before = tmp_path_factory.mktemp("processes"), Path.cwd()
    tf32 = torch.backends.cudnn.allow_tf32
    os.chdir(home)
    try:
        write_data()
        run_all(0, 1, str(home), 0, request.param, True)
        for world in (2, 3):
            run_ranks(run_all, (world, str(home), free_port(), request.param, world == 2), world)
    finally:
        os.chdir(before)
        torch.backends.cudnn.allow_tf32 = tf32
    return home


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("split", ["test", "pair"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_ranks_that_do_not_divide_the_images_score_as_one(home, name, split, world):
    """Seven images on two and three ranks, and two on three, where one rank has none."""
    one, several = (json.loads((home / f"{name}-{split}-on{count}.json").read_text()) for count in (1, world))
    assert several == pytest.approx(one, abs=1e-6)
    assert max(one.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_two_ranks_train_the_weights_of_one(home, name):
    """Twenty steps of eight images with frozen norms; the order of the sum alone may differ."""
    one, two = (
        torch.load(home / f"runs/{name}/on{world}/checkpoints/last.ckpt", weights_only=True) for world in (1, 2)
    )
    assert one["global_step"] == two["global_step"] == 20
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(
            two["state_dict"][key], value, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_two_ranks_log_the_losses_and_scores_of_one(home, name):
    """metrics.csv has the same values at the same steps; the values are means over both ranks."""
    logs = []
    for world in (1, 2):
        with (home / f"runs/{name}/on{world}/metrics.csv").open() as file:
            logs.append(list(csv.DictReader(file)))
    one, two = logs
    assert [row["step"] for row in one] == [row["step"] for row in two]
    assert sum(bool(row["train/loss"]) for row in one) == 20
    assert sum(any(row[key] for key in row if key.startswith("val/")) for row in one) == 2
    for row, other in zip(one, two, strict=True):
        for key, value in row.items():
            if value and key.startswith(("train/", "val/")):  # offsets are those of the first process alone
                assert float(other[key]) == pytest.approx(float(value), rel=1e-3, abs=1e-4), (row["step"], key)


def train_mixed(rank: int, world: int, home: str, port: int) -> None:
    """One rank of several trains on images of several sizes."""
    os.chdir(home)
    torch.set_num_threads(1)
    if world > 1:  # as a launcher does
        os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    fit(load_experiment("mixed.yaml", [f"id=on{world}", f"trainer.devices={world}"]))


@pytest.mark.slow
def test_mixed_sizes_train_the_same_on_1_2_and_4_ranks(tmp_path, monkeypatch):
    """Images of four sizes give, up to rounding, equal weights for each number of ranks."""
    monkeypatch.chdir(tmp_path)
    write_shapes(Path("mixed"), [(64, 64), (64, 96), (96, 64), (64, 80)])
    Path("mixed.yaml").write_text(COMMON.replace("max_steps: 20", "max_steps: 8") + MIXED)
    for world in (1, 2, 4):
        run_ranks(train_mixed, (world, str(tmp_path), free_port()), world)
    one, *others = (
        torch.load(f"runs/mixed/on{world}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for world in (1, 2, 4)
    )
    for other in others:
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
