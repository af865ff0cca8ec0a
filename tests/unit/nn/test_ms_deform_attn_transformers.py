"""Our operator and layer in transformers' Deformable DETR, with random weights: equal outputs and gradients."""

import pytest
import torch

from dcnlab.nn import MSDeformAttn
from dcnlab.ops import ms_deform_attn

transformers = pytest.importorskip("transformers", reason="transformers, of the extra 'test', is not installed")


class Ours(torch.nn.Module):
    """`ms_deform_attn` with the arguments of transformers' own function."""

    calls = 0

    def forward(self, value, shapes, shapes_list, starts, locations, weights, im2col_step):
        Ours.calls += 1
        return ms_deform_attn(value, shapes, starts, locations, weights)


@pytest.fixture(scope="module")
def detr():
    """A Deformable DETR of one encoder and one decoder layer over three levels, in float64."""
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3"],
    )
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
        num_feature_levels=3,
    )
    network = transformers.DeformableDetrModel(config).double().eval()
    for name, parameter in network.named_parameters():
        if "sampling_offsets" in name or "attention_weights" in name:  # zero at first
            torch.nn.init.normal_(parameter, std=0.5)
    return network


def attentions(network):
    """The deformable attention layers."""
    return [module for module in network.modules() if type(module).__name__.endswith("MultiscaleDeformableAttention")]


def results(network, image):
    """Output, and the gradients of all parameters that have one."""
    output = network(pixel_values=image, pixel_mask=torch.ones(image.shape[0], *image.shape[2:])).last_hidden_state
    network.zero_grad()
    output.sin().sum().backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return output.detach(), grads


def test_our_operator_in_deformable_detr_gives_equal_results(detr):
    """Output and every gradient equal those of transformers' grid_sample to 1e-10."""
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected, expected_grads = results(detr, image)
    theirs = [layer.attn for layer in attentions(detr)]
    try:
        for layer in attentions(detr):
            layer.attn = Ours()
        Ours.calls = 0
        found, grads = results(detr, image)
    finally:
        for layer, own in zip(attentions(detr), theirs, strict=True):
            layer.attn = own
    assert Ours.calls == len(theirs) == 2
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-8, atol=1e-9, msg=name)


def test_our_layer_takes_transformers_weights(detr):
    """A state dict loads by name, and our layer gives what theirs gives; their mask is True where pixels count."""
    theirs = attentions(detr)[0]
    ours = MSDeformAttn(32, 3, 4, theirs.n_points, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    shapes, starts = torch.tensor([[4, 5], [2, 3], [1, 1]]), torch.tensor([0, 20, 26])
    query, value = torch.randn(2, 6, 32).double(), torch.randn(2, 27, 32).double()
    references, counts = torch.rand(2, 6, 3, 2).double(), torch.rand(2, 27) > 0.2
    expected, _ = theirs(
        query,
        attention_mask=counts,
        encoder_hidden_states=value,
        reference_points=references,
        spatial_shapes=shapes,
        spatial_shapes_list=shapes.tolist(),
        level_start_index=starts,
    )
    torch.testing.assert_close(ours(query, references, value, shapes, starts, ~counts), expected)
