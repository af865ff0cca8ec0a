"""Samples of anchors and proposals: how many of which, and the same ones for the same seed."""

import pytest
import torch

from dcnlab.models.balanced_sample import balanced_sample


def test_positives_are_limited_and_negatives_fill_the_rest():
    """A fraction of 0.25 of six samples leaves room for one positive; five negatives follow."""
    labels = torch.tensor([1, 3, 0, 0, 2, -1, 0, 0, 0, 0])
    positive, negative = balanced_sample(labels, 6, 0.25)
    assert (int(positive.sum()), int(negative.sum())) == (1, 5)
    assert (labels[positive] > 0).all()
    assert (labels[negative] == 0).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_seed_fixes_the_draw_and_spares_global_state(device):
    """The same seed draws the same samples on CPU and GPU and leaves torch's random state alone."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    labels = torch.arange(1000, device=device) % 3 - 1
    first = torch.stack(balanced_sample(labels, 64, 0.5, seed=2**63 - 1))
    torch.manual_seed(5)
    state = torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()
    again = torch.stack(balanced_sample(labels, 64, 0.5, seed=2**63 - 1))
    assert torch.equal(state, torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.stack(balanced_sample(labels, 64, 0.5, seed=4)))
