"""The trainable stage on a frozen trunk, and the cache of the trunk's maps."""

import pytest
import torch
from torch import nn

from dcnlab.config.schema import BackboneConfig, Config, DataConfig, ModelConfig, OptimConfig
from dcnlab.config.validation import check
from dcnlab.io.errors import ConfigError
from dcnlab.models.build import build_network
from dcnlab.models.feature_cache import FeatureCache
from dcnlab.models.trunk import Trunk
from dcnlab.nn import DeformConv2d


def config_of(backbone="timm:resnet18", task="segmentation", model="deeplab", **options):
    """A config of a dense stage on a frozen trunk."""
    options = {"top_stage": "dense", "dilation": 2, "head_channels": 8} | options
    config = Config(
        task=task, model=ModelConfig(name=model, backbone=BackboneConfig(backbone, freeze_at="all"), **options)
    )
    config.trainer.max_steps = 1
    return config


@pytest.mark.parametrize(
    "backbone", ["timm:resnet18", "resnet18", "torchvision:mobilenet_v3_small", "efficientnet_lite0"]
)
def test_only_the_stage_and_the_head_learn(backbone):
    """A step changes the stage, its offsets and the head; the trunk, its statistics too, stays as it was."""
    network = build_network(config_of(backbone, deform_layers=3), 3)
    names = [name for name, module in network.named_modules() if isinstance(module, DeformConv2d)]
    assert names == [f"backbone.top.{number}.conv2" for number in range(3)]
    assert all(network.get_submodule(name).dilation == (2, 2) for name in names)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    logits = network(torch.rand(2, 3, 64, 80))
    assert logits.shape == (2, 3, 64, 80)
    nn.functional.cross_entropy(logits, torch.randint(3, (2, 64, 80))).backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1).step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(key.startswith("backbone.trunk.") for key in changed)
    assert {"backbone.top.2.conv2.weight", "backbone.top.2.conv2.offset_conv.bias", "reduce.weight"} <= changed


def test_the_trunk_ends_at_res4():
    """A trunk under the stage has no layer of stride 32, and gives the whole trunk's res4."""
    torch.manual_seed(0)
    whole = Trunk(*_features("resnet18", "res5")).eval()
    short = Trunk(*_features("resnet18", "res4")).eval()
    assert set(short.strides) == {"res2", "res3", "res4"}
    short.load_state_dict({key: value for key, value in whole.state_dict().items() if "layer4" not in key})
    images = torch.rand(1, 3, 70, 64)
    torch.testing.assert_close(short(images)["res4"], whole(images)["res4"])


def _features(name, last):
    from dcnlab.models.library_network import feature_network

    return feature_network("timm", name, last)


@pytest.fixture
def trunk():
    """A small convolution of stride 16 that gives res4 alone, and counts its calls."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls = nn.Conv2d(3, 4, 16, stride=16, padding=8), 0

        def forward(self, images):
            self.calls += 1
            return {"res4": self.conv(images)[..., : -(-images.shape[-2] // 16), : -(-images.shape[-1] // 16)]}

    torch.manual_seed(0)
    return Small().eval()


def test_a_map_is_computed_once_for_the_same_pixels(tmp_path, trunk):
    """The second call, and one by a new cache, read the first one's map; a mirrored or changed image has another."""
    images = torch.rand(2, 3, 40, 50)
    first = FeatureCache(tmp_path, trunk, "res4").maps(images, 16)
    torch.testing.assert_close(first, trunk(images)["res4"].detach())
    calls = trunk.calls
    assert torch.equal(FeatureCache(tmp_path, trunk, "res4").maps(images.flip(0), 16), first.flip(0))
    assert trunk.calls == calls
    FeatureCache(tmp_path, trunk, "res4").maps(images[:1].flip(-1), 16)
    FeatureCache(tmp_path, trunk, "res4").maps(images[:1] + 1e-3, 16)
    assert trunk.calls == calls + 2
    assert len(list(tmp_path.glob("*/*.npy"))) == 4


def test_other_weights_or_layers_find_nothing(tmp_path, trunk):
    """A changed weight, and a changed stride or dilation, have another folder."""
    image = torch.rand(1, 3, 32, 32)
    FeatureCache(tmp_path, trunk, "res4").maps(image, 16)
    with torch.no_grad():
        trunk.conv.weight[0, 0, 0, 0] += 1
    FeatureCache(tmp_path, trunk, "res4").maps(image, 16)
    trunk.conv.padding = (9, 9)
    FeatureCache(tmp_path, trunk, "res4").maps(image, 16)
    assert (trunk.calls, len(list(tmp_path.iterdir()))) == (3, 3)


def test_a_padded_image_has_its_own_map(tmp_path, trunk):
    """In a batch with a larger image an image gets the map of itself alone, with zeros behind it."""
    small, large = torch.rand(3, 32, 48), torch.rand(3, 64, 80)
    batch = torch.zeros(2, 3, 64, 80)
    batch[0, :, :32, :48], batch[1] = small, large
    cache = FeatureCache(tmp_path, trunk, "res4")
    maps = cache.maps(batch, 16)
    torch.testing.assert_close(maps[0, :, :2, :3], trunk(small[None])["res4"][0].detach())
    assert maps[0, :, 2:].eq(0).all()
    assert maps[0, :, :, 3:].eq(0).all()
    computed = cache.computed
    cache.maps(small[None], 16)
    assert cache.computed == computed
    assert cache.maps(torch.zeros(1, 3, 33, 16), 16).shape == (1, 4, 3, 1)


def test_a_damaged_file_is_computed_again(tmp_path, trunk):
    """A file that was cut short, by a full disk or a kill, counts as missing."""
    image = torch.rand(1, 3, 32, 32)
    expected = FeatureCache(tmp_path, trunk, "res4").maps(image, 16)
    [path] = tmp_path.glob("*/*.npy")
    path.write_bytes(path.read_bytes()[:-5])
    cache = FeatureCache(tmp_path, trunk, "res4")
    assert torch.equal(cache.maps(image, 16), expected)
    assert cache.computed == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"data": DataConfig("camvid", "x", cache_features=True, crop_size=(64, 64))}, "data.crop_size is [64, 64]"),
        (
            {"data": DataConfig("camvid", "x", cache_features=True, random_scale=(0.5, 2))},
            "data.random_scale is [0.5, 2]",
        ),
        (
            {"data": DataConfig("camvid", "x", cache_features=True, color_jitter=(0.4, 0, 0, 0))},
            "data.color_jitter is [0.4, 0, 0, 0]",
        ),
        ({"data": DataConfig(cache_features=True)}, "data.name is digits"),
        ({"model": ModelConfig("deeplab", BackboneConfig(freeze_at="all"), deform_layers=3)}, "learn no offsets"),
        ({"data": DataConfig("camvid", "x", cache_features=True), "model": ModelConfig("deeplab")}, "it needs"),
        ({"model": ModelConfig("deeplab", BackboneConfig(freeze_at="al"))}, "nearest: all"),
        ({"model": ModelConfig("deeplab", top_stage="dens")}, "nearest: dense"),
        ({"task": "classification", "model": ModelConfig(top_stage="dense")}, "classification has none"),
        ({"task": "classification", "model": ModelConfig(), "optim": OptimConfig(head_lr_scale=2)}, "takes 1"),
        (
            {"task": "detection", "model": ModelConfig("faster_rcnn_fpn", top_stage="dense")},
            "faster_rcnn_fpn takes none",
        ),
        ({"task": "detection", "model": ModelConfig("rfcn", loss_stride=4)}, "rfcn has none, deeplab does"),
    ],
)
def test_settings_without_effect_are_refused(change, line):
    """One line names the key that does not fit, before anything is built."""
    config = config_of()
    for key, value in change.items():
        setattr(config, key, value)
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as error:
        check(config)
    assert line in str(error.value)
