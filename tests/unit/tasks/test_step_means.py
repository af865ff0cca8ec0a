"""What is logged of a step is the mean of its batches; of several processes, tests/test_processes.py shows it."""

import pytorch_lightning as pl
import torch

from dcnlab.tasks.step_means import StepMeans


def test_step_means_average_the_batches_of_one_step():
    """Float16 losses of three accumulated batches; the next step starts from zero."""
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    means = StepMeans()
    for loss, top1 in ((1.0, 50.0), (2.0, 0.0), (6.0, 100.0)):
        means.add({"loss": torch.tensor(loss, dtype=torch.float16, requires_grad=True), "top1": torch.tensor(top1)})
    assert {name: float(value) for name, value in means.take(trainer).items()} == {"loss": 3.0, "top1": 50.0}
    means.add({"loss": torch.tensor(8.0)})
    taken = means.take(trainer)
    assert float(taken["loss"]) == 8.0
    assert not taken["loss"].requires_grad
