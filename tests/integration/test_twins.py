"""Twins, a plain network and a deformable one of the same seed, start equal and see the same images."""

from pathlib import Path

import pytest
import torch
from small_experiments import EXPERIMENTS, write_data
from torchvision.models import resnet
from torchvision.models.resnet import Bottleneck, ResNet

from dcnlab.config import packaged
from dcnlab.config.load import load_experiment
from dcnlab.config.outside import OutsideName
from dcnlab.data.seeding import mix
from dcnlab.models import aligned_inception_resnet
from dcnlab.models.resnet import residual_network
from dcnlab.training.build_network import task_module
from dcnlab.training.parts import build
from dcnlab.training.run_folder import RunFolder

NAMES = [name for name in packaged.names("experiments") if not Path(name).name.startswith("base")]
PLAIN = ["model.deform_layers=0"]
DEFORMABLE = ["model.deform_layers=3", "model.modulated=true"]
WITHOUT_POOLING, WITH_POOLING = ["model.deform_pooling=false"], ["model.deform_pooling=true"]
NEW = ("offset_conv", "offset_fc", "offset", "added", "transformer")


def slim(name, *overrides):
    """The network of an experiment with fewer blocks and narrower heads, and none of a file's weights."""
    config = load_experiment(name, ["model.backbone.weights=none", *overrides], default_root="somewhere")
    config.model.head_channels = config.model.rpn.hidden_channels = config.model.fc_channels = 16
    torch.manual_seed(len(overrides))  # what was drawn before makes no difference
    return task_module(config, [str(number) for number in range(5)]).model


@pytest.fixture
def few_blocks(monkeypatch):
    """ResNet-50 to 152 and Aligned-Inception-ResNet with one block of each stage, an eighth as wide inside."""
    monkeypatch.setattr(
        resnet, "_resnet", lambda *_, num_classes: ResNet(Bottleneck, [1, 1, 1, 1], num_classes, width_per_group=8)
    )
    monkeypatch.setattr(aligned_inception_resnet, "_BLOCKS", (1, 1, 1, 1))
    monkeypatch.setattr(aligned_inception_resnet, "_WIDTHS", (8, 16, 32, 64))


def differing(plain, twin):
    """Names of the plain network's tensors that its twin lacks or holds other numbers for."""
    others = {name.removeprefix("backbone."): value for name, value in twin.state_dict().items()}
    values = {name.removeprefix("backbone."): value for name, value in plain.state_dict().items()}
    assert len(values) > 20
    assert all(set(name.split(".")) & set(NEW) for name in others.keys() - values.keys())
    return [name for name, value in values.items() if name not in others or not torch.equal(value, others[name])]


@pytest.mark.parametrize("name", NAMES)
def test_twins_start_equal_in_what_both_have(few_blocks, name):
    """In every experiment file: all weights of the plain network are in its deformable twin, with the same numbers."""
    two_stage = name.startswith("detection") and "class_aware" not in name
    plain = slim(name, *PLAIN, *(WITHOUT_POOLING if two_stage else []))
    twin = slim(name, *DEFORMABLE, *(WITH_POOLING if two_stage else []))
    assert sum("offset_conv.weight" in key for key in twin.state_dict()) >= 3
    assert differing(plain, twin) == []


@pytest.mark.parametrize(
    "option",
    [
        "deform_kind=active deform_layers=2",
        "deform_kind=added deform_layers=2",
        "spatial_transformer=true",
        "dilation=2",
    ],
)
def test_the_papers_other_variants_start_equal_too(option):
    """Active and added convolutions, a transformer and a larger dilation leave the start of all else as it is."""
    changes = [f"model.{change}" for change in option.split()]
    assert (
        differing(slim("classification/quickstart", *PLAIN), slim("classification/quickstart", *PLAIN, *changes)) == []
    )


def test_heads_and_backbones_are_drawn_from_seed_and_name():
    """R-FCN's head and backbone hold the numbers of generators of (seed, name), whatever was built before them."""
    state = slim("detection/quickstart", "seed=5").state_dict()
    for name, spread in (("reduce.weight", 0.01), ("rpn.conv.weight", 0.01), ("layer4.0.conv2.weight", None)):
        tensor = state[name if name in state else f"backbone.{name}"]
        spread = spread or (2 / (9 * tensor.shape[0])) ** 0.5  # He's, by the channels of the output
        generator = torch.Generator().manual_seed(mix(5, *name.encode()))
        expected = torch.empty(tensor.shape).normal_(0, spread, generator=generator)
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=0)


def test_networks_with_other_heads_share_the_rest():
    """Faster R-CNN and DeepLab start with R-FCN's backbone, and Faster R-CNN with its RPN and 1x1 convolution too."""
    rfcn = slim("detection/quickstart").state_dict()
    for name, others in (("detection/quickstart", ["model.name=faster_rcnn"]), ("segmentation/quickstart", [])):
        state = slim(name, *others).state_dict()
        shared = [key for key in rfcn if key.startswith(("backbone.", "rpn.") if others else "backbone.")]
        shared += ["reduce.weight"] if others else []
        assert [key for key in shared if not torch.equal(rfcn[key], state[key])] == []


def test_surgery_from_outside_may_draw_numbers():
    """A function from outside that draws numbers leaves the start of all other layers as it is."""

    def draw(model, layers, offset_groups, modulated):
        torch.nn.Conv2d(4, 4, 3)

    config = load_experiment("segmentation/quickstart", ["model.deform_layers=3"])
    config.model.deform_kind = OutsideName("mine:draw", draw)
    twin = task_module(config, ["a", "b"]).model
    config.model.deform_layers = 0
    assert differing(task_module(config, ["a", "b"]).model, twin) == []


def test_networks_of_other_seeds_start_otherwise():
    """No weight of a convolution or linear layer is the same at two seeds; norms and zero biases are."""
    first, second = (slim("detection/quickstart", f"seed={seed}").state_dict() for seed in (0, 1))
    same = [name for name in first if torch.equal(first[name], second[name])]
    drawn = [name for name, value in first.items() if value.ndim > 1 and "offset" not in name]
    assert len(drawn) > 15
    assert not set(drawn) & set(same)


def test_the_distributions_are_the_papers():
    """He's for the backbone, N(0, 0.01) for heads, and torch's uniform one for a classifier's last layer."""
    state = slim("detection/quickstart").state_dict()
    weight = state["backbone.layer4.0.conv1.weight"]
    assert weight.std() == pytest.approx((2 / (9 * weight.shape[0])) ** 0.5, rel=0.05)
    for name in ("reduce.weight", "score_maps.weight", "rpn.conv.weight"):
        assert state[name].std() == pytest.approx(0.01, rel=0.1), name
        assert not state[name.replace("weight", "bias")].any()
    last = slim("classification/quickstart").state_dict()["fc.weight"]
    assert last.abs().max() == pytest.approx(last.shape[1] ** -0.5, rel=0.05)


def test_weights_from_a_file_stay_in_the_network(tmp_path):
    """A backbone that was loaded keeps the file's numbers, its new offsets are zero, and its head is drawn by name."""
    state = residual_network("resnet10_slim").state_dict()
    torch.save(state, tmp_path / "weights.pt")
    name, there = "segmentation/quickstart", f"model.backbone.weights={tmp_path / 'weights.pt'}"
    loaded, new = slim(name, there).state_dict(), slim(name).state_dict()
    for key, value in loaded.items():
        of_file = state.get(key.removeprefix("backbone.")) if key.startswith("backbone.") else None
        assert torch.equal(value, new[key] if of_file is None else of_file), key


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_twins_train_on_the_same_images(tmp_path, monkeypatch, name):
    """The order, the augmentation and torch's generator do not depend on the network that was built before."""
    monkeypatch.chdir(tmp_path)
    write_data()
    seen, states = [], []
    for layers in (0, 3):
        parts = build(load_experiment(f"{name}.yaml", [f"model.deform_layers={layers}"]), RunFolder(tmp_path / "run"))
        states.append(torch.get_rng_state())
        torch.rand(layers)  # as a network would that draws in its forward pass
        parts.data.setup("fit")
        loader = parts.data.train_dataloader()
        loader.sampler.set_epoch(1)
        seen.append([image for batch in loader for image in batch[0]])
    assert torch.equal(*states)
    assert len(seen[0]) >= 14
    assert not torch.equal(seen[0][0], seen[0][1])
    assert all(torch.equal(first, second) for first, second in zip(*seen, strict=True))
