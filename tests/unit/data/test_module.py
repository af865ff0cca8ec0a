"""The data modules' loaders, alone and in two processes."""

import pytest
import torch

from dcnlab.data.digits.data_module import DigitsDataModule
from dcnlab.data.digits.geometry import Geometry


class FakeTrainer:
    """The four numbers a data module asks its trainer for."""

    def __init__(self, global_rank, world_size, accumulate_grad_batches=1):
        self.global_rank, self.world_size, self.num_devices = global_rank, world_size, world_size
        self.accumulate_grad_batches = accumulate_grad_batches


def test_digits_give_standardized_batches():
    """Mean near 0, std near 1, and every class in a batch of 500."""
    data = DigitsDataModule(batch_size=500)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (500, 3, 56, 56)
    assert images.dtype == torch.float32
    assert abs(images.mean()) < 0.1
    assert 0.85 < images.std() < 1.15
    assert labels.bincount(minlength=10).min() > 20
    assert data.classes == list("0123456789")
    assert [sum(len(batch[1]) for batch in loader) for loader in (data.val_dataloader(), data.test_dataloader())] == [
        1000,
        2000,
    ]


def test_lengths_and_geometry_reach_the_scenes():
    """The last training batch that is not full is left out; testing keeps it."""
    data = DigitsDataModule(Geometry(image_size=40), train_length=130, test_length=90, batch_size=64)
    assert [len(batch[1]) for batch in data.train_dataloader()] == [64, 64]
    assert [len(batch[1]) for batch in data.test_dataloader()] == [64, 26]
    assert next(iter(data.test_dataloader()))[0].shape == (64, 3, 40, 40)


def test_a_set_smaller_than_a_batch_still_trains():
    assert [len(batch[1]) for batch in DigitsDataModule(train_length=5).train_dataloader()] == [5]


def test_epochs_have_whole_steps_on_1_and_8_ranks():
    """29 images, 8 a step: three steps an epoch, from one rank's batches or one image of eight ranks."""
    batches = []
    for world, batch_size in ((1, 2), (1, 8), (4, 1), (8, 1)):
        data = DigitsDataModule(train_length=29, batch_size=batch_size)
        data.trainer = FakeTrainer(0, world, 8 // (world * batch_size))
        batches.append(len(data.train_dataloader()))
    assert batches == [12, 3, 6, 3]


def test_digits_without_a_validation_split_score_none():
    """data.val=null gives no validation loader in each task."""
    for task in ("classification", "segmentation", "detection"):
        assert DigitsDataModule(val=None, task=task, digits=1).val_dataloader() == []


def test_the_seed_changes_the_order_and_not_the_scenes():
    """Sorted sums over the images are equal, their order is not."""
    one, two = (DigitsDataModule(train_length=64, seed=seed) for seed in (0, 1))
    (images, _), (others, _) = next(iter(one.train_dataloader())), next(iter(two.train_dataloader()))
    assert not torch.equal(images, others)
    assert torch.equal(images.sum((1, 2, 3)).sort().values, others.sum((1, 2, 3)).sort().values)
    again = next(iter(DigitsDataModule(train_length=64, seed=0).train_dataloader()))[0]
    assert torch.equal(again, images)


def test_two_ranks_score_each_scene_once():
    """33 scenes are divided into 17 and 16 without repeats."""
    sums = []
    for rank in range(2):
        data = DigitsDataModule(test_length=33, batch_size=8)
        data.trainer = FakeTrainer(rank, 2)
        sums.append(torch.cat([images.sum((1, 2, 3)) for images, _ in data.test_dataloader()]))
    whole = torch.cat([b[0].sum((1, 2, 3)) for b in DigitsDataModule(test_length=33).test_dataloader()])
    assert [len(share) for share in sums] == [17, 16]
    assert torch.equal(torch.cat(sums).sort().values, whole.sort().values)


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_a_rank_without_images_scores_an_empty_batch(task):
    """Lightning would skip the rank in the evaluation, and the others would wait for it."""
    shares = []
    for rank in range(3):
        data = DigitsDataModule(Geometry(image_size=28), test_length=2, batch_size=8, task=task, digits=1)
        data.trainer = FakeTrainer(rank, 3)
        shares.append(list(data.test_dataloader()))
    assert [[len(part) for batch in share for part in batch] for share in shares] == [[1, 1], [1, 1], [0, 0]]
    assert type(shares[2][0][0]) is type(shares[0][0][0])


def test_more_ranks_than_images_take_one_image_each(caplog):
    """Three images on four ranks: one is repeated, and rank 0 alone warns."""
    taken = []
    for rank in range(4):
        data = DigitsDataModule(Geometry(image_size=28), train_length=3, batch_size=8)
        data.trainer = FakeTrainer(rank, 4)
        loader = data.train_dataloader()
        taken.append([index for _, index in loader.sampler])
        assert [len(images) for images, _ in loader] == [1]
    assert [len(indices) for indices in taken] == [1] * 4
    assert {index for [index] in taken} == {0, 1, 2}
    assert [record.getMessage() for record in caplog.records] == [
        "warning: data.train has 3 images for 4 ranks; each takes one, some of them the same"
    ]


def test_scenes_of_several_digits_have_pixel_labels():
    """Batches are full, labels are int64 maps, and most scenes show more than one class."""
    data = DigitsDataModule(Geometry(image_size=64), batch_size=32, train_length=64, task="segmentation", digits=3)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (32, 3, 64, 64)
        assert (labels.shape, labels.dtype) == ((32, 64, 64), torch.int64)
    assert data.classes == ["background", *"0123456789"]
    assert sum(len(label.unique()) > 2 for label in labels) > 16


def test_an_unknown_digits_task_is_refused():
    """The error lists the tasks that digit scenes are made for."""
    with pytest.raises(ValueError, match=r"'captioning'.*classification, segmentation"):
        DigitsDataModule(task="captioning")


def test_detection_batches_are_lists_of_scenes_and_targets():
    data = DigitsDataModule(task="detection", digits=3, train_length=20, test_length=5, batch_size=4)
    images, targets = next(iter(data.train_dataloader()))
    assert [tuple(image.shape) for image in images] == [(3, 56, 56)] * 4
    assert 1 <= max(len(target["boxes"]) for target in targets) <= 3
    assert [target["image_id"] for _, batch in data.test_dataloader() for target in batch] == [0, 1, 2, 3, 4]
    assert data.classes == list("0123456789")
