"""A classifier learns, and its scores count every image once, in one process or two."""

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ports import free_port
from ranks import run_ranks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dcnlab.config.schema import OptimConfig
from dcnlab.data.digits.data_module import DigitsDataModule
from dcnlab.data.digits.geometry import Geometry
from dcnlab.tasks.classification import Classification, TopK


def trainer(**options):
    return pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def small_net(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, classes),
    )  # fmt: skip


def test_a_few_dozen_steps_learn_upright_zeros_and_ones():
    """Chance is 50% and a loss of ln 2 = 0.69."""
    pl.seed_everything(0, verbose=False)
    geometry = Geometry(image_size=40, rotation=20, scale=(2, 2.5), shear=0.1, warp=0.02, clutter=0)
    data = DigitsDataModule(geometry, classes=["0", "1"], train_length=640, batch_size=32)
    task = Classification(small_net(2), data.classes, OptimConfig(lr=0.05))
    run = trainer(max_epochs=3)
    run.fit(task, datamodule=data)
    assert run.global_step == 60
    assert run.callback_metrics["train/loss"] < 0.25
    assert run.callback_metrics["val/top1"] > 80
    scores = run.test(task, datamodule=data, verbose=False)[0]
    assert scores.keys() == {"test/top1"}
    assert scores["test/top1"] > 80


class Lookup(nn.Module):
    """Gives back its input as logits."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images.flatten(1)


def test_scores_are_percentages_of_images_not_of_batches():
    """Seven classes, eleven images in batches of 4, 4 and 3: 6 hits at top 1, 9 at top 5."""
    logits = torch.full((11, 7), 0.0) - torch.arange(7.0)  # class 0 highest, class 6 lowest
    labels = torch.tensor([0] * 6 + [4] * 3 + [5, 6])
    loader = DataLoader(TensorDataset(logits.view(11, 7, 1, 1), labels), 4)
    task = Classification(Lookup(), list("abcdefg"), OptimConfig())
    scores = trainer().test(task, loader, verbose=False)[0]
    assert scores == {"test/top1": pytest.approx(600 / 11), "test/top5": pytest.approx(900 / 11)}


def test_a_test_counts_which_class_is_found_as_which():
    """Rows are labels: of three 0 two are found, of the 2 none; a second test begins anew."""
    found, labels = torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 2])
    logits = torch.nn.functional.one_hot(found, 3).float()
    loader = DataLoader(TensorDataset(logits.view(5, 3, 1, 1), labels), 2)
    task = Classification(Lookup(), list("abc"), OptimConfig())
    for _ in range(2):
        trainer().test(task, loader, verbose=False)
        assert task.confusion.counts.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
        assert (task.confusion.classes, task.confusion.unit) == (("a", "b", "c"), "images")


def score_share(rank, port, answers):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metric = TopK(3)
    # The first process has one image, the second three; right are 1 of 1 and 1 of 3.
    share = (torch.tensor([2]), torch.tensor([2])) if rank == 0 else (torch.tensor([0, 1, 1]), torch.tensor([0, 0, 2]))
    metric.update(torch.nn.functional.one_hot(share[0], 3).float(), share[1])
    answers[rank] = metric.compute().item()
    dist.destroy_process_group()


def test_two_ranks_with_unequal_shares_score_as_one():
    """2 of 4 images is 50%; the mean of the two ranks' own scores would be 66.7."""
    with mp.Manager() as manager:
        answers = manager.dict()
        run_ranks(score_share, (free_port(), answers), 2)
        assert dict(answers) == {0: 50.0, 1: 50.0}


def test_label_smoothing_spreads_its_fraction_over_all_classes():
    """By hand: 0.3 smoothing of three classes gives targets of 0.1 and 0.8."""
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.5, 0.5, -1.0]])
    labels = torch.tensor([0, 2])
    task = Classification(Lookup(), list("abc"), OptimConfig(label_smoothing=0.3))
    task.log_dict = lambda *args, **kwargs: None
    wanted = torch.full((2, 3), 0.1)
    wanted[[0, 1], labels] += 0.7
    expected = -(wanted * logits.log_softmax(1)).sum(1).mean()
    assert torch.allclose(task.training_step((logits.view(2, 3, 1, 1), labels), 0), expected)
