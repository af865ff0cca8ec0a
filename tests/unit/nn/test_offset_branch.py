"""The layers that predict offsets: zero through every customary initialisation, and precise under autocast."""

import copy
import io

import pytest
import torch
import torchvision
from torch import nn

from dcnlab.nn import ActiveConv2d, DeformConv2d, DeformPSRoIPool, DeformRoIPool, SpatialTransformer
from dcnlab.surgery import deform

BOXES = torch.tensor([[0, 1.0, 2, 9, 11]])


def network():
    """Every layer that has offsets."""
    return nn.ModuleDict(
        {
            "deformable": DeformConv2d(4, 6, 3, padding=1, modulated=True, padding_mode="reflect"),
            "replaced": deform(nn.Sequential(nn.Conv2d(4, 6, 3)), "0"),
            "active": ActiveConv2d(4, 6, 3),
            "pool": DeformRoIPool(4, 3),
            "position_sensitive": DeformPSRoIPool(4, 2, 3),
            "transformer": SpatialTransformer(3),
        }
    )


def offsets(net):
    parts = ("offset_conv", "offset_fc", "offset", "localisation.7")
    found = {k: v for k, v in net.named_parameters() if k.removesuffix(".weight").removesuffix(".bias").endswith(parts)}
    assert len(found) == 11
    return found


def over_classes(net):
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias)


def over_exact_classes(net):
    for module in net.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


def over_reset_parameters(net):
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def over_names_of_classes(net):
    def draw(module):  # as DCGAN's
        name = type(module).__name__
        if "Conv" in name or "Linear" in name:
            nn.init.normal_(module.weight, 0.0, 0.02)

    net.apply(draw)


@pytest.mark.parametrize("loop", [over_classes, over_exact_classes, over_reset_parameters, over_names_of_classes])
def test_offsets_stay_zero_in_an_initialisation_loop(loop):
    """Loops of user code that initialize each Conv2d by class or name must not touch them."""
    net = network()
    first = net["deformable"].weight.detach().clone(), net["transformer"].localisation[0].weight.detach().clone()
    loop(net)
    assert {name for name, value in offsets(net).items() if value.any()} == set()
    if loop is not over_exact_classes:
        assert not torch.equal(net["deformable"].weight, first[0])
    assert not torch.equal(net["transformer"].localisation[0].weight, first[1])


def test_resetting_a_trained_layer_makes_its_offsets_zero():
    net = network()
    for value in offsets(net).values():
        nn.init.ones_(value)
    over_reset_parameters(net)
    assert not any(value.any() for value in offsets(net).values())


def test_the_offset_branch_behaves_like_its_convolution():
    """Output, repr, copy and torch.save equal nn.Conv2d's for each padding mode."""
    image = torch.randn(2, 4, 9, 10)
    for mode, padding in (("zeros", 1), ("reflect", (2, 1)), ("zeros", "same")):
        layer = DeformConv2d(4, 6, 3, padding=padding, dilation=2 if padding == "same" else 1, padding_mode=mode)
        plain = nn.Conv2d(4, 18, 3, padding=padding, dilation=layer.dilation, padding_mode=mode)
        layer.offset_conv.load_state_dict(plain.state_dict())
        assert torch.equal(layer.offset_conv(image), plain(image))
        assert repr(layer.offset_conv) == repr(plain).replace("Conv2d", "OffsetBranch")
        assert torch.equal(copy.deepcopy(layer).offset_conv(image), plain(image))
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False).offset_conv(image), plain(image))


def test_surgery_works_on_meta_tensors_and_keeps_dtype():
    """A network on the meta device stays there; a bfloat16 one gets zero bfloat16 offset weights."""
    with torch.device("meta"):
        net = deform(torchvision.models.resnet18(), 3)
    assert all(parameter.is_meta for parameter in net.parameters())
    branch = deform(torchvision.models.resnet18().bfloat16(), 1).layer4[1].conv2.offset_conv
    assert (branch.weight.dtype, branch.weight.device.type, branch.weight.any()) == (torch.bfloat16, "cpu", False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round_an_offset_of_nine_pixels(dtype):
    """9.03 is 9 in bfloat16, and 9.03125 in float16."""
    layer = DeformConv2d(4, 6, 3, padding=1, modulated=True)
    nn.init.constant_(layer.offset_conv.bias, 9.03)
    pool, sensitive = DeformRoIPool(4, 3), DeformPSRoIPool(4, 1, 3, samples_per_bin=2)
    nn.init.constant_(pool.offset_fc.bias, 9.03)
    nn.init.constant_(sensitive.offset_conv.bias, 9.03)
    features = torch.randn(1, 4, 16, 16)
    with torch.autocast("cpu", dtype):
        for given in (features, features.to(dtype)):
            offset, mask = layer.offsets(given)
            output = layer(given)
            assert (offset.dtype, mask.dtype, output.dtype) == (torch.float32, torch.float32, dtype)
            for predicted in (offset, pool.offsets(given, BOXES), sensitive.offsets(given, BOXES)):
                assert (predicted - 9.03).abs().max() < 1e-3
        assert torch.is_autocast_enabled("cpu")


def test_autocast_does_not_round_an_affine_matrix():
    """A departure of 0.0301 from the identity must survive bfloat16 autocast."""
    transformer = SpatialTransformer(3)
    nn.init.constant_(transformer.localisation[-1].bias, 0.0301)
    with torch.autocast("cpu", torch.bfloat16):
        departure = transformer.matrices(torch.randn(1, 3, 16, 16)) - torch.eye(2, 3)
    assert (departure - 0.0301).abs().max() < 1e-6


def test_a_half_precision_layer_keeps_its_dtype():
    """Offsets and output of a bfloat16 layer are bfloat16."""
    layer = DeformConv2d(4, 6, 3, padding=1).bfloat16()
    image = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16)
    assert layer.offsets(image)[0].dtype == layer(image).dtype == torch.bfloat16


@pytest.mark.parametrize("autocast", [False, True])
def test_offset_branches_compile_to_one_graph(autocast):
    """Only the branch: the operators' graphs have tests of their kind in unit/ops."""
    layer, pool = DeformConv2d(4, 6, 3, padding=1, modulated=True), DeformRoIPool(4, 3)
    nn.init.normal_(layer.offset_conv.weight)
    nn.init.normal_(pool.offset_fc.weight)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    def predict(image):
        return layer.offset_conv(image), pool.offset_fc(image.flatten(1)[:, :36])

    image = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = torch.compile(predict, fullgraph=True, backend=backend)(image)
        assert len(graphs) == 1
        assert [value.dtype for value in found] == [torch.float32] * 2
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, predict(image), strict=True))
