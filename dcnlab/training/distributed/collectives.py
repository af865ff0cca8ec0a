"""Collectives for the callbacks: whether any rank has a flag, the minimum over ranks, and every rank's text."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.distributed as dist


def waits_for_gpu(trainer: pl.Trainer) -> bool:
    """Whether `true_on_any_rank` makes the CPU wait for a GPU."""
    return trainer.world_size > 1 and trainer.strategy.root_device.type != "cpu"


def true_on_any_rank(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """For each flag, whether it is set on any rank; every rank has to call this."""
    if trainer.world_size == 1 or not dist.is_initialized():
        return list(flags)
    numbers = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return [bool(number) for number in numbers.tolist()]


def least_of_all_ranks(trainer: pl.Trainer, number: int) -> int:
    """The least of the ranks' numbers; every rank has to call this."""
    if trainer.world_size == 1 or not dist.is_initialized():
        return number
    least = torch.tensor(number, device=trainer.strategy.root_device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def texts_of_all_ranks(trainer: pl.Trainer, text: str | None) -> list[str | None]:
    """Each rank's text, in the order of the ranks; every rank has to call this."""
    if trainer.world_size == 1 or not dist.is_initialized():
        return [text]
    texts: list[str | None] = [None] * trainer.world_size
    dist.all_gather_object(texts, text)
    return texts
