"""Which images each process sees: all once in evaluation, equally many in training."""

import itertools

import pytest

from dcnlab.data.samplers import EvaluationSampler, TrainingSampler


@pytest.mark.parametrize(("length", "world"), [(10, 1), (10, 3), (7, 8), (0, 2)])
def test_evaluation_sees_each_image_once_over_all_ranks(length, world):
    """For more ranks than images, too: no index is repeated or left out."""
    shares = [list(EvaluationSampler(length, rank, world)) for rank in range(world)]
    assert sorted(itertools.chain(*shares)) == list(range(length))
    assert [len(EvaluationSampler(length, rank, world)) for rank in range(world)] == [len(share) for share in shares]


@pytest.mark.parametrize(("length", "world"), [(10, 1), (11, 2), (9, 4)])
def test_ranks_share_an_epoch_equally_without_repeats(length, world):
    """Each rank gets as many indices, no index twice, and the rest sits out."""
    shares = [list(TrainingSampler(length, 3, rank, world)) for rank in range(world)]
    assert {len(share) for share in shares} == {length // world}
    drawn = list(itertools.chain(*shares))
    assert len(set(drawn)) == len(drawn)
    assert {index for _, index in drawn} <= set(range(length))


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_optimizer_steps_see_the_same_images_on_any_ranks(world):
    """1, 2, 4 and 8 ranks take the same 8 of 29 images for each step; five are left out."""
    # An effective batch of 8 images out of 29: three steps a pass, and five images sit out.
    each = 8 // world
    shares = [[index for _, index in TrainingSampler(29, 3, rank, world, step=each)] for rank in range(world)]
    order = [index for _, index in TrainingSampler(29, 3)]
    steps = [
        sorted(itertools.chain(*(share[k : k + each] for share in shares))) for k in range(0, len(shares[0]), each)
    ]
    assert steps == [sorted(order[k : k + 8]) for k in (0, 8, 16)]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_batch_holds_the_same_images_on_any_number_of_ranks(world):
    """Images of several sizes are padded to the largest of their batch, so batches must agree."""
    # Batches of two, an effective batch of eight: images of several sizes are padded to the largest of their batch.
    shares = [[i for _, i in TrainingSampler(29, 3, rank, world, 2, 8 // world)] for rank in range(world)]
    batches = [tuple(share[k : k + 2]) for k in range(0, len(shares[0]), 2) for share in shares]
    order = [index for _, index in TrainingSampler(29, 3)]
    assert batches == [tuple(order[k : k + 2]) for k in range(0, 24, 2)]


@pytest.mark.parametrize(("length", "world", "batch"), [(5, 2, 8), (7, 2, 2), (9, 4, 4), (11, 3, 2)])
def test_batches_that_do_not_fill_repeat_no_image(length, world, batch):
    """Ranks get equal numbers of images even where the last batches are small."""
    shares = [[i for _, i in TrainingSampler(length, 3, rank, world, batch, 4 * batch)] for rank in range(world)]
    assert {len(share) for share in shares} == {length // world}
    drawn = list(itertools.chain(*shares))
    assert len(set(drawn)) == len(drawn)


def test_an_epoch_shorter_than_a_step_still_trains():
    """Five images with an effective batch of eight are taken as one step."""
    assert len(list(TrainingSampler(5, step=8))) == 5


def test_the_order_depends_on_seed_and_epoch_alone():
    """set_epoch changes the order, and a new sampler repeats it."""
    sampler = TrainingSampler(50, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert [index for _, index in first] != [index for _, index in second]
    assert {turn for turn, _ in second} == {1}
    again = TrainingSampler(50, seed=1)
    again.set_epoch(1)
    assert list(again) == second
    assert list(TrainingSampler(50, seed=2)) != first
