"""Both deformable RoI poolings against the published kernels, torchvision, hand-worked cases and the reference."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from roi_cases import FUNCTIONS, NAMES, REFERENCES, RULES, Case, by_autograd, by_cpu, by_reference, random_case
from tester import LAYOUTS, assert_near
from torch import Tensor, nn

from dcnlab.ops import ArgumentError, deform_ps_roi_pool, deform_roi_pool

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
PATHS = {"reference": REFERENCES, "cpu": FUNCTIONS}
GOLDEN = [("ps", f"deform_psroi_pool_{i}") for i in range(4)] + [("aligned", f"deform_roi_pool_{i}") for i in range(4)]


def golden(path: Path, rule: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Arrays by our names, and the sizes as arguments."""
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    number = {name: value.item() for name, value in arrays.items() if value.dim() == 0}
    names = {"input": "input", "boxes": "rois", "output": "output", "grad_output": "grad_output", "grad": "grad_input"}
    if rule == "aligned":
        sizes = {
            "output_size": (number["pooled_height"], number["pooled_width"]),
            "spatial_scale": number["spatial_scale"],
            "sampling_ratio": number["sampling_ratio"],
            "gamma": number["gamma"],
        }
        names |= {"offset": "offset", "grad_offset": "grad_offset_true"} if number["has_offset"] else {}
    else:
        sizes = {
            "output_size": number["pooled_size"],
            "spatial_scale": number["spatial_scale"],
            "group_size": number["group_size"],
            "part_size": number["part_size"],
            "samples_per_bin": number["sample_per_part"],
            "gamma": number["trans_std"],
        }
        names |= {} if number["no_trans"] else {"offset": "trans", "grad_offset": "grad_trans"}
    return {ours: arrays[theirs] for ours, theirs in names.items()}, sizes


@pytest.mark.parametrize(("rule", "name"), GOLDEN)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_pooling_equals_the_published_kernels_and_gradients(goldens, rule, name, path, dtype):
    """Golden arrays of the authors' and mmcv's kernels, also where the gradient has a kink."""
    arrays, sizes = golden(goldens / f"{name}.npz", rule)
    leaves = {k: arrays[k].to(dtype).requires_grad_() for k in ("input", "offset") if k in arrays}
    output = PATHS[path][rule](leaves["input"], arrays["boxes"].to(dtype), leaves.get("offset"), **sizes)
    output.backward(arrays["grad_output"].to(dtype))
    found = {"output": output.detach(), "grad": leaves["input"].grad}
    if "offset" in leaves:
        found["grad_offset"] = leaves["offset"].grad
    for key, value in found.items():
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        error = (value.double() - arrays[key]).abs().max() / max(1, arrays[key].abs().max())
        assert error <= tolerance, f"{key}: {error}"


def test_mmcvs_offset_gradient_is_wrong_at_clamped_samples(goldens):
    """The arrays show that mmcv departs from the true gradient only there, as the docstring says."""
    # Official and true gradient are equal but at places that are clamped: so the departure is real, and not ours alone.
    with np.load(goldens / "deform_roi_pool_1.npz") as file:
        differ = np.abs(file["grad_offset"] - file["grad_offset_true"]) > 1e-9
        assert 0 < (differ & (file["grad_offset_kink"] == 0)).sum() < differ.size / 4


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("ratio", [0, 2, 3])
def test_aligned_pooling_without_offsets_is_roi_align(seed, ratio):
    """Random boxes and sampling ratios: output and gradient equal torchvision's roi_align."""
    case = random_case(seed, "aligned", shifted=False, samples=ratio)

    def oracle(input, boxes, offset, *, output_size, spatial_scale, sampling_ratio, gamma):
        inside = (boxes[:, :1] >= 0) & (boxes[:, :1] < case.batch)  # torchvision reads stray memory for others
        safe = torch.cat((boxes[:, :1].clamp(0, case.batch - 1), boxes[:, 1:]), 1)
        pooled = torchvision.ops.roi_align(input, safe, output_size, spatial_scale, sampling_ratio, aligned=True)
        return pooled * inside[:, :, None, None]

    assert_near(by_cpu(case), by_autograd(oracle, case), case)


def test_a_ramp_pools_to_the_mean_sampling_location():
    """By hand: a linear map gives the value at the samples' mean."""
    # value = 3 y + x + 1. Box 4, 8 to 11, 15 at scale 1/2: x from 4 / 2 - 0.5 to 12 / 2 - 0.5, which is 4 wide; two
    # bins of 2, samples at 0 and 1 in each, so means 2 and 4 in x, 4 and 6 in y. The offset (0.5, -1) adds 0.05 * 4 to
    # x and -0.1 * 4 to y.
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    ramp = (3 * y + x + 1)[None, None]
    boxes = torch.tensor([[0.0, 4, 8, 11, 15]])
    offset = torch.tensor([0.5, -1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    pooled = deform_ps_roi_pool(ramp, boxes, None, 2, 0.5, samples_per_bin=2)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[15.0, 17], [21, 23]]))
    shifted = deform_ps_roi_pool(ramp, boxes, offset, 2, 0.5, samples_per_bin=2)
    torch.testing.assert_close(shifted[0, 0], pooled[0, 0] + 0.2 - 3 * 0.4)


def test_a_bin_reads_the_channel_of_its_cell_and_class():
    """Each channel holds its own number, so the output names what was read."""
    # Channel c holds the number c everywhere, so the output says which channel each bin read.
    group, channels = 2, 3
    input = torch.arange(float(channels * group**2)).view(1, -1, 1, 1).expand(1, -1, 9, 9)
    pooled = deform_ps_roi_pool(input, torch.tensor([[0.0, 1, 1, 6, 6]]), None, 4, group_size=group)
    cell = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    expected = cell + 4 * torch.arange(channels).view(3, 1, 1)
    torch.testing.assert_close(pooled[0], expected.float())


def test_only_the_channels_of_a_class_move_with_its_offset():
    case = Case(channels=6, classes=3)
    tensors = case.tensors()
    moved = tensors["offset"].clone()
    moved[:, 2:4] += 1.5
    pool = functools.partial(deform_ps_roi_pool, tensors["input"], tensors["boxes"], **case.sizes())
    same = (pool(moved) == pool(tensors["offset"])).all(dim=3).all(dim=2).all(dim=0)
    assert same.tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_every_dtype_stays_near_the_float64_reference(seed, dtype, rule):
    case = random_case(seed, rule, dtype=dtype)
    found = by_cpu(case)
    assert found["output"].dtype == dtype
    assert found["input"].dtype == dtype
    assert_near(found, by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", range(4))
def test_random_cases_equal_the_reference(batch, rule):
    """250 random cases for each batch, in all four dtypes."""
    for seed in range(1000 + 250 * batch, 1250 + 250 * batch):
        case = random_case(seed, rule, dtype=DTYPES[seed % 4])
        assert_near(by_cpu(case), by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("channels", [63, 64, 130, 200])
def test_channels_beyond_one_block_are_all_summed(rule, channels):
    case = Case(rule, channels=channels)
    assert_near(by_cpu(case), by_reference(case), case)


def test_rounding_of_parts_is_that_of_the_authors_kernel():
    """floor(13 / 23 * 23) is 12 in float64; all paths must round so."""
    # floor(13 / 23 * 23) is 12 in float64: the authors' kernel rounds so, and so do all paths.
    case = Case(out_size=(23, 23), part=23, rois=2, samples=1)
    assert_near(by_cpu(case), by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
def test_a_large_box_of_many_samples_equals_the_reference(rule):
    samples = 13 if rule == "ps" else 0
    case = Case(rule, height=23, width=30, out_size=(2, 2), part=2, samples=samples, rois=6, scale=0.9)
    assert_near(by_cpu(case), by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
def test_no_boxes_and_an_empty_batch_give_empty_results(rule):
    found = by_cpu(Case(rule, rois=0))
    assert found["output"].shape == (0, 4, 3, 3)
    assert not found["input"].any()
    assert found["offset"].numel() == 0
    found = by_cpu(Case(rule, batch=0))
    assert found["input"].shape == (0, 4, 7, 9)
    assert not found["output"].any()
    assert not found["offset"].any()
    assert FUNCTIONS[rule](torch.ones(0, 4, 7, 9), []).shape == (0, 4, 7, 7)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("number", [-1.0, 2.0, 1e20, float("nan"), float("inf")])
def test_a_box_of_no_image_pools_zero_and_gets_no_gradient(rule, number):
    """Image numbers -1, 2 of 2 images, NaN and infinity."""
    case = Case(rule)
    tensors = case.tensors()
    tensors["boxes"][:, 0] = torch.tensor([0, 1, 0, 1, 0])
    expected = FUNCTIONS[rule](*tensors.values(), **case.sizes())
    tensors["boxes"][3, 0] = number
    leaves = tensors["input"].requires_grad_(), tensors["offset"].requires_grad_()
    output = FUNCTIONS[rule](leaves[0], tensors["boxes"], leaves[1], **case.sizes())
    output.sum().backward()
    expected[3] = 0
    torch.testing.assert_close(output.detach(), expected)
    assert leaves[1].grad[2].any()
    assert not leaves[1].grad[3].any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e20, -1e20], ids=str)
def test_a_nonfinite_offset_or_box_reads_zero_there_only(rule, ratio, value):
    """NaN, infinite or huge offsets and boxes give 0 in their own bins and finite gradients."""
    case = Case(rule, samples=max(ratio, 1) if rule == "ps" else ratio)
    tensors = case.tensors()
    tensors["boxes"][:] = torch.tensor([0, 3.0, 4, 23, 20])
    pool = functools.partial(FUNCTIONS[rule], **case.sizes())
    expected = pool(*tensors.values())
    assert expected.all()
    offset, boxes = tensors["offset"].clone(), tensors["boxes"].clone()
    offset[0, 1, 1, 2] = value
    boxes[2, 3], boxes[3, 1], boxes[4, 2] = value, value, value
    leaves = tensors["input"].requires_grad_(), offset.requires_grad_()
    output = pool(leaves[0], boxes, leaves[1])
    output.sum().backward()
    assert not output[0, :, 1, 2].any()
    expected[0, :, 1, 2] = 0
    torch.testing.assert_close(output[:2].detach(), expected[:2])
    assert output.isfinite().all()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert not offset.grad[0, :, 1, 2].any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("argument", NAMES)
def test_strided_arguments_count_as_their_values(rule, argument):
    case = Case(rule)

    def with_one_strided(*tensors, **sizes):
        tensors = dict(zip(NAMES, tensors, strict=True))
        wide = torch.full((*tensors[argument].shape, 3), float("nan"), dtype=tensors[argument].dtype)
        wide[..., 1] = tensors[argument]
        tensors[argument] = wide[..., 1]
        assert not tensors[argument].is_contiguous()
        return FUNCTIONS[rule](*tensors.values(), **sizes)

    assert_near(by_autograd(with_one_strided, case), by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "group"), [(70, 1), (3, 3)])
def test_pool_gradients_do_not_depend_on_their_memory_layout(layout, dtype, rule, channels, group):
    """Strided, expanded and transposed output gradients give the same bits."""
    case = Case(rule, channels=channels, group=group if rule == "ps" else 1, dtype=dtype)
    input, boxes, offset = case.tensors().values()
    leaves = [input.requires_grad_(), offset.requires_grad_()]
    output = FUNCTIONS[rule](leaves[0], boxes, leaves[1], **case.sizes())
    grad = LAYOUTS[layout](case.grad())
    expected = torch.autograd.grad(output, leaves, grad.contiguous(), retain_graph=True)
    found = torch.autograd.grad(output, leaves, grad)
    assert all(torch.equal(value, other) for value, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_boxes_may_be_a_list_with_one_entry_per_image(rule):
    """As in torchvision, a list of box tensors, one empty, equals boxes with image numbers."""
    case = Case(rule, batch=3, shifted=False)
    input, boxes, _ = case.tensors().values()
    parts = [boxes[:2, 1:], boxes[:0, 1:], boxes[2:, 1:]]
    boxes[:, 0] = torch.tensor([0, 0, 2, 2, 2])
    expected = FUNCTIONS[rule](input, boxes, **case.sizes())
    torch.testing.assert_close(FUNCTIONS[rule](input, parts, **case.sizes()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_boxes_get_no_gradient(rule):
    """As in torchvision, box coordinates are not differentiated."""
    case = Case(rule)
    input, boxes, offset = case.tensors().values()
    boxes.requires_grad_()
    output = FUNCTIONS[rule](input.requires_grad_(), boxes, offset, **case.sizes())
    output.sum().backward()
    assert boxes.grad is None
    assert not FUNCTIONS[rule](input.detach(), boxes, offset, **case.sizes()).requires_grad


@pytest.mark.parametrize(("rule", "adaptive"), [("ps", False), ("aligned", False), ("aligned", True)])
def test_gradcheck_and_second_derivatives(rule, adaptive):
    group = 2 if rule == "ps" else 1
    case = Case(rule, 1, 2, 5, 6, 2, (2, 2), group=group, part=2, classes=group, samples=0 if adaptive else 2)
    input, boxes, offset = case.tensors().values()
    boxes = torch.tensor([[0, -1.0, 2, 18, 15], [0, 7, 3, 26, 23]], dtype=torch.float64)
    leaves = input.requires_grad_(), offset.requires_grad_()

    def pool(input, offset):
        return FUNCTIONS[rule](input, boxes, offset, **case.sizes())

    assert pool(*leaves).any()
    assert torch.autograd.gradcheck(pool, leaves)
    assert torch.autograd.gradgradcheck(pool, leaves)


@pytest.mark.parametrize("rule", RULES)
def test_create_graph_works_without_any_sample(rule):
    """A reversed box has no samples, so the offset has no part in the graph; its gradient is 0."""
    # A reversed box has no samples in the aligned rule, so the offset has no part in the graph.
    input, offset = torch.ones(1, 1, 5, 5, requires_grad=True), torch.zeros(1, 2, 7, 7, requires_grad=True)
    output = FUNCTIONS[rule](input, torch.tensor([[0.0, 40, 40, 30, 30]]), offset)
    grads = torch.autograd.grad(output.sum(), (input, offset), create_graph=True)
    assert not any(grad.any() for grad in grads)


class Module(nn.Module):
    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, input: Tensor, boxes: Tensor, offset: Tensor) -> Tensor:
        if self.rule == "ps":
            return deform_ps_roi_pool(input, boxes, offset, 3)
        return deform_roi_pool(input, boxes, offset, 3)


@pytest.mark.parametrize("rule", RULES)
def test_roi_pooling_is_one_node_in_fx(rule):
    """torch.fx must not trace into it."""
    graph = torch.fx.symbolic_trace(Module(rule)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [FUNCTIONS[rule]]


@pytest.mark.parametrize("rule", RULES)
def test_autocast_casts_input_but_not_boxes_or_offsets(rule):
    """The output is bfloat16; gradients of the leaves stay float32."""
    case = Case(rule, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = by_cpu(case)
    assert found["output"].dtype == torch.bfloat16
    assert found["input"].dtype == found["offset"].dtype == torch.float32
    assert_near(found, by_reference(case), case, tolerance=0.03)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_computes_locations_in_float32(rule, dtype):
    """At column 1300 a float16 coordinate would be wrong by half a pixel."""
    # A ramp of slope 1/16 over 64 columns, again and again; boxes of one sample, at x and offsets that move it by a
    # quarter pixel. A coordinate rounded to half precision at 1300 would be off by half a pixel, 1/32 of value.
    width = 1333
    ramp = (torch.arange(width) % 64 / 16).to(dtype).expand(1, 1, 1, width)
    at = torch.tensor([9.0, 650, 1030, 1300])
    boxes = torch.stack((at * 0, at, at * 0, at + 1, at * 0 + 1), 1)
    offset = torch.tensor([0.25, 0.0]).view(1, 2, 1, 1).repeat(4, 1, 1, 1)
    if rule == "ps":  # from x - 0.5, two pixels wide
        output, place = deform_ps_roi_pool(ramp, boxes, offset, 1, samples_per_bin=1, gamma=1.0), at
    else:  # the middle of a pixel from x - 0.5 on
        output, place = deform_roi_pool(ramp, boxes, offset, 1, sampling_ratio=1, gamma=1.0), at + 0.25
    torch.testing.assert_close(output.flatten(), (place % 64 / 16).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_gradients_repeat_bit_for_bit_with_any_threads(rule):
    """1, 2, 3 and 7 threads give the same bits."""
    case = Case(rule, 2, 130, 15, 17, rois=40, out_size=(7, 7), part=7, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = by_cpu(case)
        for number in (1, 2, 3, 7):
            torch.set_num_threads(number)
            for name, value in by_cpu(case).items():
                assert torch.equal(value, first[name]), f"{name} with {number} threads"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("frozen", ["input", "offset"])
def test_frozen_arguments_get_no_gradient_work(rule, frozen, monkeypatch):
    """The backward kernel returns nothing for an argument that needs no gradient."""
    from dcnlab.ops.cpu import roi_pool as cpu

    results = []
    backward = cpu.backward
    monkeypatch.setattr(cpu, "backward", lambda *args: results.append(backward(*args)) or results[-1])
    case = Case(rule)
    tensors = case.tensors()
    live = "offset" if frozen == "input" else "input"
    tensors[live].requires_grad_()
    FUNCTIONS[rule](*tensors.values(), **case.sizes()).backward(case.grad())
    assert getattr(results[0], frozen) is None
    assert getattr(results[0], live).shape == tensors[live].shape
    assert_near({live: tensors[live].grad}, {live: by_reference(case)[live]}, case)


@pytest.mark.parametrize(
    ("rule", "change", "sizes", "name"),
    [
        ("ps", {"offset": lambda t: t[:-1]}, {}, "offset"),
        ("ps", {"offset": lambda t: t[:, :1]}, {}, "offset"),
        ("ps", {"offset": lambda t: t.repeat(1, 3, 1, 1)}, {}, "offset"),
        ("ps", {"offset": lambda t: t.long()}, {}, "offset"),
        ("ps", {}, {"part_size": 2}, "offset"),
        ("ps", {}, {"group_size": 3}, "input"),
        ("ps", {}, {"group_size": 0}, "group_size"),
        ("ps", {}, {"output_size": (3, 4)}, "output_size"),
        ("ps", {}, {"output_size": 2.5}, "output_size"),
        ("ps", {}, {"samples_per_bin": 0}, "samples_per_bin"),
        ("ps", {}, {"gamma": float("nan")}, "gamma"),
        ("aligned", {"offset": lambda t: t[:, :, :2]}, {}, "offset"),
        ("aligned", {}, {"output_size": (3, 4, 5)}, "output_size"),
        ("aligned", {}, {"output_size": 0}, "output_size"),
        ("aligned", {}, {"sampling_ratio": -1}, "sampling_ratio"),
        ("aligned", {}, {"spatial_scale": "x"}, "spatial_scale"),
        *[
            (rule, change, {}, name)
            for rule in RULES
            for change, name in [
                ({"input": lambda t: t[0]}, "input"),
                ({"input": lambda t: t[..., :0]}, "input"),
                ({"input": lambda t: t.long()}, "input"),
                ({"boxes": lambda t: t[:, 1:]}, "boxes"),
                ({"boxes": lambda t: t.long()}, "boxes"),
                ({"boxes": lambda t: 3}, "boxes"),
                ({"boxes": lambda t: [t[:, 1:]]}, "boxes"),
                ({"boxes": lambda t: [t[:2, 1:], t[2:]]}, r"boxes\[1\]"),
            ]
        ],
    ],
)
def test_a_wrong_argument_is_named_in_one_line(rule, change, sizes, name):
    """The message begins with the argument's name."""
    case = Case(rule)
    tensors = case.tensors()
    tensors |= {k: alter(tensors[k]) for k, alter in change.items()}
    with pytest.raises(ArgumentError, match=rf"^{name}: ") as caught:
        FUNCTIONS[rule](*tensors.values(), **(case.sizes() | sizes))
    assert "\n" not in str(caught.value)
