"""Weights from files of several kinds, and the original ResNets' under Caffe's names."""

import hashlib
import logging
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import conv2d
from torchvision.models import ResNet18_Weights, ResNet101_Weights, resnet101
from torchvision.models.resnet import Bottleneck, ResNet

from dcnlab.io.errors import ConfigError
from dcnlab.models import caffe_resnet
from dcnlab.models.convert import convert
from dcnlab.models.resnet import classifier, resnet10_slim
from dcnlab.models.weights import load
from dcnlab.models.weights_source import source

PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def layers(*blocks):
    """Torchvision's layers of a ResNet by their names in Caffe's files: `layer3.22.conv3` is `res4b22_branch2c`."""
    names = {"conv1": "conv1", "bn1": "bn_conv1", "fc": "fc1000"}
    for stage, count in enumerate(blocks, start=2):
        for block in range(count):
            letter = "abcdef"[block] if stage in (2, 5) or block == 0 else f"b{block}"
            here, there = f"layer{stage - 1}.{block}", f"{stage}{letter}_branch"
            for number, branch in ((1, "2a"), (2, "2b"), (3, "2c")):
                names[f"{here}.conv{number}"] = f"res{there}{branch}"
                names[f"{here}.bn{number}"] = f"bn{there}{branch}"
            if block == 0:
                names[f"{here}.downsample.0"], names[f"{here}.downsample.1"] = f"res{there}1", f"bn{there}1"
    return names


def mxnet(state, names):
    """A state dict of torchvision's as a file of the authors' has it."""
    found = {}
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        if part != "num_batches_tracked":
            prefix = "aux:" if part.startswith("running") else "arg:"
            norm = names[layer].startswith("bn")
            found[f"{prefix}{names[layer]}_{PARTS[part] if norm else part}"] = value
    return found


def small(seed):
    """A ResNet of one bottleneck a stage, with norms that do something."""
    torch.manual_seed(seed)
    model = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5, width_per_group=8).eval()
    for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]:
        for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            value.uniform_(0.5, 1.5)
    return model


def test_all_mxnet_names_of_resnet101_are_mapped():
    """Every tensor of the authors' naming finds its torchvision name, with none left over."""
    with torch.device("meta"):
        state = resnet101().state_dict()
    names = layers(3, 4, 23, 3)
    theirs = mxnet(state, names)
    for name, key in (
        ("layer3.22.conv3.weight", "arg:res4b22_branch2c_weight"),
        ("layer2.3.bn1.running_var", "aux:bn3b3_branch2a_moving_var"),
        ("layer4.2.bn3.bias", "arg:bn5c_branch2c_beta"),
        ("layer1.0.downsample.0.weight", "arg:res2a_branch1_weight"),
        ("bn1.weight", "arg:bn_conv1_gamma"),
        ("fc.bias", "arg:fc1000_bias"),
    ):
        assert theirs[key] is state[name]
    assert caffe_resnet.recognises(theirs)
    assert not caffe_resnet.recognises(state)
    mapped, foreign = caffe_resnet.to_torchvision(theirs)
    assert foreign == []
    assert set(mapped) == {name for name in state if not name.endswith("num_batches_tracked")}
    assert all(mapped[name] is state[name] for name in mapped)


def test_caffe_letters_of_resnet50_map_to_block_numbers():
    """res4f is block 5 of layer3, as res4b5 is in deeper networks."""
    blob = torch.zeros(1)
    mapped, _ = caffe_resnet.to_torchvision({"res4f_branch2b_weight": blob, "bn3d_branch2c_gamma": blob})
    assert set(mapped) == {"layer3.5.conv2.weight", "layer2.3.bn3.weight"}


def test_offsets_of_an_authors_detector_are_loaded():
    """Offset convolutions map to ours, and the tensors of the heads are named."""
    state = {"res5a_branch2b_offset_weight": torch.ones(1), "rpn_conv_3x3_weight": torch.ones(1)}
    mapped, foreign = caffe_resnet.to_torchvision(state)
    assert list(mapped) == ["layer4.0.conv2.offset_conv.weight"]
    assert foreign == ["rpn_conv_3x3_weight"]


@pytest.mark.parametrize("ending", ["pt", "safetensors", "npz"])
def test_authors_files_give_the_logits_and_name_settings(tmp_path, caplog, ending):
    """Each file format loads, and a line names the stride and normalization that the weights need."""
    theirs, ours = small(0), small(1)
    state = mxnet(theirs.state_dict(), layers(1, 1, 1, 1)) | {"arg:rpn_conv_3x3_weight": torch.zeros(1)}
    path = tmp_path / f"w.{ending}"
    if ending == "npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    else:
        (save_file if ending == "safetensors" else torch.save)(state, path)
    images = torch.randn(2, 3, 64, 64)
    assert not torch.allclose(ours(images), theirs(images), atol=1e-2)
    with caplog.at_level(logging.INFO):
        load(ours, "resnet101", str(path))
    assert torch.equal(ours(images), theirs(images))
    wants, loaded = (record.getMessage() for record in caplog.records)
    assert "stride_on_1x1=true" in wants
    assert "data.mean=[0.482941,0.45451,0.404157] data.std=[0.00392157,0.00392157,0.00392157]" in wants
    assert "not used: arg:rpn_conv_3x3_weight" in loaded
    assert "\n" not in wants + loaded
    for stage in (ours.layer2, ours.layer3, ours.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    caplog.clear()
    load(ours, "resnet101", str(path))
    assert "stride_on_1x1" not in caplog.text


def caffe(names, state):
    """The blobs of Caffe's layers: statistics are sums, over a number beside them; scale layers; blue comes first."""
    random = np.random.default_rng(0)
    blobs = {}
    for name, layer in names.items():
        channels = len(state[f"{name}.weight"])
        if not layer.startswith("bn"):
            blobs[f"{layer}/0"] = random.standard_normal(state[f"{name}.weight"].shape, np.float32)
            continue
        mean, variance, gamma, beta = random.uniform(0.5, 1.5, (4, channels)).astype(np.float32)
        blobs |= {f"{layer}/0": mean * 1000, f"{layer}/1": variance * 1000, f"{layer}/2": np.float32([999.982])}
        scale = layer.replace("bn_", "scale_") if layer == "bn_conv1" else layer.replace("bn", "scale")
        blobs |= {f"{scale}/0": gamma, f"{scale}/1": beta}
    blobs["conv1/1"] = random.standard_normal(len(blobs["conv1/0"]), np.float32)
    blobs["fc1000/1"] = np.zeros(5, np.float32)
    return blobs


def by_caffes_layers(x, blobs, layer):
    """BatchNorm with statistics of use, then Scale, as Caffe's layers say it, in float64."""
    scale = layer.replace("bn", "scale")
    mean, variance = (blobs[f"{layer}/{i}"].astype(np.float64) / blobs[f"{layer}/2"][0] for i in (0, 1))
    mean, variance, gamma, beta = (
        values[:, None, None] for values in (mean, variance, blobs[f"{scale}/0"], blobs[f"{scale}/1"])
    )
    return (x.double().numpy() - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def test_caffe_norm_scale_and_bgr_are_folded(tmp_path):
    """BatchNorm, Scale, bias and channel order of Caffe give its output in one norm, RGB first."""
    model = small(0)
    blobs = caffe(layers(1, 1, 1, 1), model.state_dict())
    np.savez(tmp_path / "caffe.npz", **blobs)
    load(model, "resnet101", str(tmp_path / "caffe.npz"))
    features = torch.randn(2, 2048, 3, 3)
    want = by_caffes_layers(features, blobs, "bn5a_branch2c")
    assert np.abs(model.layer4[0].bn3(features).detach().numpy() - want).max() < 1e-5
    images = torch.randn(2, 3, 32, 32)
    weight, bias = (torch.from_numpy(blobs[f"conv1/{i}"]) for i in (0, 1))
    convolved = conv2d(images[:, [2, 1, 0]].double(), weight.double(), bias.double(), stride=2, padding=3)
    want = by_caffes_layers(convolved, blobs, "bn_conv1")
    assert np.abs(model.bn1(model.conv1(images)).detach().numpy() - want).max() < 1e-4


def test_a_caffe_norm_without_its_factor_is_named(tmp_path):
    """The third blob divides mean and variance; without it they are unknown."""
    model = small(0)
    blobs = caffe(layers(1, 1, 1, 1), model.state_dict())
    del blobs["bn4a_branch2b/2"]
    np.savez(tmp_path / "caffe.npz", **blobs)
    with pytest.raises(ConfigError, match=r"\A[^\n]*bn4a_branch2b has 2 blobs[^\n]*\Z"):
        load(model, "resnet101", str(tmp_path / "caffe.npz"))


def test_broken_weight_files_are_refused_and_run_no_code(tmp_path):
    """Wrong contents behind .safetensors and .npz, and object arrays, give one line."""
    for ending in ("safetensors", "npz"):
        path = tmp_path / f"w.{ending}"
        for content in (b"", b"hello", b"PK\x03\x04", b"\xff" * 64):
            path.write_bytes(content)
            with pytest.raises(ConfigError, match=r"\A[^\n]*cannot be read as a state dict[^\n]*\Z"):
                load(resnet10_slim(), "resnet10_slim", str(path))
    np.savez(tmp_path / "objects.npz", weight=np.array([{}], dtype=object))
    with pytest.raises(ConfigError, match="cannot be read as a state dict"):
        load(resnet10_slim(), "resnet10_slim", str(tmp_path / "objects.npz"))


def test_whole_network_safetensors_load_the_backbone(tmp_path):
    """A file with a spatial transformer gives its classifier's weights."""
    theirs = classifier("resnet10_slim", 10, spatial_transformer=True)
    save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    ours = classifier("resnet10_slim", 10, weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(ours.fc.weight, theirs.backbone.fc.weight)
    assert torch.equal(ours.layer4[0].bn2.running_var, theirs.backbone.layer4[0].bn2.running_var)


def binary(path, arrays):
    """Write arrays as MXNet writes its .params files of version 2."""
    content = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        array = np.ascontiguousarray(array, np.float32)
        content += struct.pack(f"<IiI{array.ndim}q", 0xF993FAC9, 0, array.ndim, *array.shape)
        content += struct.pack("<iii", 1, 0, 0) + array.tobytes()
    content += struct.pack("<Q", len(arrays))
    path.write_bytes(content + b"".join(struct.pack("<Q", len(name)) + name.encode() for name in arrays))


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_converted_mxnet_file_gives_the_same_logits(tmp_path, ending):
    """A .params file becomes a file of torchvision's names that loads into an equal network."""
    theirs, ours, direct = small(0), small(1), small(2)
    state = mxnet(theirs.state_dict(), layers(1, 1, 1, 1)) | {"arg:rpn_conv_3x3_weight": torch.zeros(1)}
    binary(tmp_path / "w.params", {name: value.numpy() for name, value in state.items()})
    notes = convert(tmp_path / "w.params", tmp_path / f"w.{ending}")
    assert "not used: arg:rpn_conv_3x3_weight" in notes[0]
    assert "data.mean=[0.482941,0.45451,0.404157]" in notes[1]
    load(ours, "resnet101", str(tmp_path / f"w.{ending}"))
    load(direct, "resnet101", str(tmp_path / "w.params"))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(direct(images), theirs(images))


def protobuf(number, content):
    """A field of bytes in a message of protobuf."""

    def varint(value):
        return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)

    return varint(number * 8 + 2) + varint(len(content)) + content


def caffemodel(path, blobs):
    """Write blobs `LAYER/NUMBER` as Caffe writes a NetParameter: layer 100, blobs 7, shape 7, data 5."""
    by_layer = {}
    for key, array in blobs.items():
        shape = b"".join(bytes([size % 128 + 128, size // 128]) for size in array.shape)
        data = np.ascontiguousarray(array, "<f4").tobytes()
        blob = protobuf(7, protobuf(7, protobuf(1, shape)) + protobuf(5, data))
        by_layer.setdefault(key.rpartition("/")[0], []).append(blob)
    content = [protobuf(100, protobuf(1, name.encode()) + b"".join(parts)) for name, parts in by_layer.items()]
    path.write_bytes(b"".join(content))


def test_a_converted_caffemodel_loads_as_its_blobs_do(tmp_path):
    """`--from caffe` reads Caffe's own file: the network equals the one of the same blobs in an .npz."""
    ours, theirs = small(0), small(1)
    blobs = caffe(layers(1, 1, 1, 1), theirs.state_dict())
    np.savez(tmp_path / "caffe.npz", **blobs)
    load(theirs, "resnet101", str(tmp_path / "caffe.npz"))
    caffemodel(tmp_path / "w.caffemodel", blobs)
    notes = convert(tmp_path / "w.caffemodel", tmp_path / "w.safetensors", "caffe")
    assert "model.backbone.stride_on_1x1=true" in notes[1]
    load(ours, "resnet101", str(tmp_path / "w.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(images), theirs(images))


def test_a_conversion_that_cannot_be_done_writes_nothing(tmp_path):
    """An unknown ending, a damaged file and a file without a ResNet end in one line each."""
    binary(tmp_path / "other.params", {"arg:fc_weight": np.zeros(3)})
    (tmp_path / "cut.caffemodel").write_bytes(b"\xa2\x06\x7fx")
    for name, out, said in (
        ("other.params", "w.bin", "must end in one of"),
        ("other.params", "w.pt", "holds no ResNet"),
        ("cut.caffemodel", "w.pt", "states 127 bytes"),
        ("none.params", "w.pt", "is not a file"),
    ):
        with pytest.raises(ConfigError, match=rf"\A[^\n]*{said}[^\n]*\Z"):
            convert(tmp_path / name, tmp_path / out)
        assert not (tmp_path / out).exists()
    with pytest.raises(ConfigError, match="nearest: mxnet"):
        convert(tmp_path / "other.params", tmp_path / "w.pt", "mxnt")


def test_imagenet_is_torchvisions_first_weights_by_name(monkeypatch, tmp_path):
    """`imagenet` names IMAGENET1K_V1 with its address and hash; `imagenet_v2` names IMAGENET1K_V2."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    first, second = ResNet101_Weights.IMAGENET1K_V1, ResNet101_Weights.IMAGENET1K_V2
    assert source("resnet101", "imagenet") == {
        "name": "ResNet101_Weights.IMAGENET1K_V1", "address": first.url, "sha256": None
    }  # fmt: skip
    assert source("resnet101", "imagenet_v2")["address"] == second.url != first.url
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]).write_bytes(b"weights")
    assert source("resnet18", "imagenet")["sha256"] == hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(ConfigError, match="resnet18 does not have, but resnet50, resnet101, resnet152 do"):
        source("resnet18", "imagenet_v2")


def test_a_files_weights_are_named_by_path_and_hash(tmp_path):
    """A path is kept as written, with the absolute path as address; none has no source."""
    (tmp_path / "w.pt").write_bytes(b"weights")
    found = source("resnet18", str(tmp_path / "w.pt"))
    assert found["address"] == found["name"] == str(tmp_path / "w.pt")
    assert found["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert source("resnet18", "none") is None
