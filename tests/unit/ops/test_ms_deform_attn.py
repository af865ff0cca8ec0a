"""Multi-scale deformable attention against the published formula, hand-worked cases and the reference."""

import functools

import pytest
import torch
from attn_cases import LEAVES, Case, by_autograd, by_cpu, by_reference, in_float64, published, random_case
from tester import assert_near

from dcnlab.ops import ArgumentError, ms_deform_attn, reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
PATHS = {"reference": reference.ms_deform_attn, "cpu": ms_deform_attn}


@pytest.mark.parametrize("path", PATHS)
def test_random_cases_equal_the_published_formula(path):
    """Output and all gradients of 150 random cases in float64 are grid_sample's to 1e-10."""
    for seed in range(150):
        case = random_case(seed)
        assert_near(by_autograd(PATHS[path], case), in_float64(published, case), case)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_dtype_stays_near_the_float64_reference(dtype):
    """Results have the arguments' dtypes; locations and sums are float32."""
    for seed in range(200, 240):
        case = random_case(seed, dtype=dtype)
        found = by_cpu(case)
        assert found["output"].dtype == found["value"].dtype == dtype
        assert found["sampling_locations"].dtype == torch.float32
        assert_near(found, by_reference(case), case)


@pytest.mark.parametrize("path", PATHS)
def test_samples_and_slopes_worked_by_hand(path):
    """A ramp of slope 3 in y and 1 in x, and a second level of fives."""
    # Level 0 is 4x4 with value 3 y + x + 1. At fractions (0.5, 0.375), x before y: pixel x = 0.5 * 4 - 0.5 = 1.5 and
    # y = 0.375 * 4 - 0.5 = 1: value 3 + 1.5 + 1 = 5.5. Level 1 is a single 5: at (0, 0.5), x = -0.5, half off the
    # level, so it gives 2.5, and its slope is 5 a pixel. Weights 2 and 10: the sum is 11 + 25 = 36.
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    value = torch.cat(((3 * y + x + 1).flatten(), torch.tensor([5.0]))).view(1, 17, 1, 1).double().requires_grad_()
    shapes, starts = torch.tensor([[4, 4], [1, 1]]), torch.tensor([0, 16])
    locations = torch.tensor([[0.5, 0.375], [0.0, 0.5]]).view(1, 1, 1, 2, 1, 2).double().requires_grad_()
    weights = torch.tensor([2.0, 10.0]).view(1, 1, 1, 2, 1).double().requires_grad_()
    output = PATHS[path](value, shapes, starts, locations, weights)
    assert output.flatten().tolist() == [36.0]
    output.sum().backward()
    assert weights.grad.flatten().tolist() == [5.5, 2.5]
    # Slopes per pixel times the level's size and the weight: x 1 * 4 * 2, y 3 * 4 * 2; x 5 * 1 * 10; y at its right
    # of 0 falls from 2.5 to nothing: -2.5 * 10.
    assert locations.grad.flatten().tolist() == [8.0, 24.0, 50.0, -25.0]
    pixels = torch.zeros(4, 4)
    pixels[1, 1:3] = 1.0  # halves, times the weight of 2
    assert torch.equal(value.grad[0, :16, 0, 0].view(4, 4), pixels.double())
    assert value.grad[0, 16].item() == 5.0


def test_pixels_and_fractions_are_two_forms_of_one_place():
    """The same places, given in pixels, give the same results to rounding."""
    case = Case()
    tensors = case.tensors()
    fractions = tensors["sampling_locations"]
    size = tensors["spatial_shapes"].flip(1)[:, None]
    expected = ms_deform_attn(*tensors.values())
    tensors["sampling_locations"] = fractions * size - 0.5
    torch.testing.assert_close(ms_deform_attn(*tensors.values(), normalized=False), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("factor", [1.0, float("inf")])
@pytest.mark.parametrize("location", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9, -3e9, 1.5], ids=str)
def test_a_location_that_is_no_place_reads_nothing(path, location, factor):
    """One coordinate of a sample is off, its weight may be infinite: it adds nothing and has no gradient."""
    case = Case(dtype=torch.float32)
    tensors = case.tensors()
    for number in (0, 1):
        tensors["sampling_locations"][0, number, 0, 0, 0, number] = location
        tensors["attention_weights"][0, number, 0, 0, 0] = factor
    leaves = {name: t.requires_grad_() if name in LEAVES else t for name, t in tensors.items()}
    output = PATHS[path](*leaves.values())
    output.sum().backward()
    value, shapes, starts, places, zeroed = (tensor.detach().clone() for tensor in tensors.values())
    places[0, :2, 0, 0, 0], zeroed[0, :2, 0, 0, 0] = 0.5, 0
    torch.testing.assert_close(output.detach(), PATHS[path](value, shapes, starts, places, zeroed))
    for name in LEAVES:
        assert leaves[name].grad.isfinite().all(), name
    for number in (0, 1):
        assert not leaves["sampling_locations"].grad[0, number, 0, 0, 0].any()
        assert not leaves["attention_weights"].grad[0, number, 0, 0, 0].any()


@pytest.mark.parametrize("path", PATHS)
def test_an_infinite_weight_gives_infinity_not_nan(path):
    """A sample of positive pixels times infinity is infinite, also where one corner weighs nothing."""
    case = Case(heads=1, levels=1, points=1, queries=2, batch=1, normalized=False)
    tensors = case.tensors()
    tensors["value"].abs_()
    tensors["sampling_locations"][0, :, 0, 0, 0] = torch.tensor([[1.25, 2.5], [1.0, 2.0]], dtype=torch.float64)
    tensors["attention_weights"][:] = torch.inf
    value = tensors["value"].requires_grad_()
    output = PATHS[path](*tensors.values(), normalized=False)
    assert torch.equal(output, torch.full_like(output, torch.inf))
    output.sum().backward()
    assert not value.grad.isnan().any()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("change", ["start", "height", "width", "negative"])
def test_a_level_outside_of_the_value_reads_nothing(path, change):
    """The registered operator, whose numbers nobody has checked, reads no memory outside of value."""
    case = Case()
    arguments = case.arguments()
    shapes, starts = arguments.spatial_shapes, arguments.level_start_index
    if change == "start":
        starts[1] = 10**12
    elif change == "negative":
        starts[1] = -1
    else:
        shapes[1, 0 if change == "height" else 1] = 2**40
    weights = arguments.attention_weights.clone()
    weights[:, :, :, 1] = 0
    expected = reference.ms_deform_attn(*case.arguments(attention_weights=weights))
    operator = torch.ops.dcnlab.ms_deform_attn if path == "cpu" else PATHS[path]
    torch.testing.assert_close(operator(*arguments), expected)
    if path == "cpu":
        grads = torch.ops.dcnlab.ms_deform_attn_backward(case.grad(), *arguments, [True, True, True])
        assert not grads[1][:, :, :, 1].any()
        assert not grads[2][:, :, :, 1].any()


@pytest.mark.parametrize("empty", ["batch", "queries", "points", "heads", "channels", "levels"])
def test_empty_sizes_give_empty_or_zero_results(empty):
    """No image, query, point, head, channel or level: zeros of the right shape, on both paths."""
    case = Case(**{empty: 0})
    tensors = case.tensors()
    for function in PATHS.values():
        leaves = {name: t.clone().requires_grad_() if name in LEAVES else t for name, t in tensors.items()}
        output = function(*leaves.values())
        assert output.shape == (case.batch, case.queries, case.heads * case.channels)
        assert not output.any()
        output.sum().backward()
        assert all(leaves[name].grad is None or not leaves[name].grad.any() for name in LEAVES)


@pytest.mark.parametrize("normalized", [True, False])
def test_first_and_second_derivatives_are_right(normalized):
    """gradcheck of the kernels, gradgradcheck through the reference, in float64."""
    case = Case(1, 2, 2, 3, 4, 2, 2, 2, normalized, reach=0.4)
    value, shapes, starts, locations, weights = case.tensors().values()

    def attend(value, locations, weights):
        return ms_deform_attn(value, shapes, starts, locations, weights, normalized)

    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(attend, leaves)
    assert torch.autograd.gradgradcheck(attend, leaves)


def test_lists_of_sizes_count_as_tensors():
    """Pairs and first pixels as lists, or as int32 tensors, give the same bits."""
    tensors = Case().tensors()
    expected = ms_deform_attn(*tensors.values())
    value, shapes, starts, *places = tensors.values()
    assert torch.equal(ms_deform_attn(value, [(7, 8), (4, 4)], [0, 56], *places), expected)
    assert torch.equal(ms_deform_attn(value, shapes.int(), starts.int(), *places), expected)


@pytest.mark.parametrize(
    "argument", ["value", "spatial_shapes", "level_start_index", "sampling_locations", "attention_weights"]
)
def test_strided_arguments_count_as_their_values(argument):
    """Every other number of a wider tensor, the others being NaN or wrong."""
    case = Case()

    def with_one_strided(*tensors, normalized):
        tensors = dict(zip(case.tensors(), tensors, strict=True))
        given = tensors[argument]
        wide = torch.full((*given.shape, 3), torch.nan if given.is_floating_point() else 99, dtype=given.dtype)
        wide[..., 1] = given
        tensors[argument] = wide[..., 1]
        assert not tensors[argument].is_contiguous()
        return ms_deform_attn(*tensors.values(), normalized)

    assert_near(by_autograd(with_one_strided, case), by_reference(case), case)


@pytest.mark.parametrize("layout", ["expanded", "transposed", "sliced"])
def test_gradients_do_not_depend_on_the_layout_of_grad(layout):
    """An output's gradient that is expanded, transposed or sliced gives the same bits."""
    case = Case(dtype=torch.float32)
    tensors = case.tensors()
    leaves = [tensors[name].requires_grad_() for name in LEAVES]
    output = ms_deform_attn(*tensors.values())
    grad = {
        "expanded": torch.tensor(0.75).expand_as(output),
        "transposed": case.grad().mT.contiguous().mT,
        "sliced": case.grad().repeat_interleave(2, 2)[..., ::2],
    }[layout]
    expected = torch.autograd.grad(output, leaves, grad.contiguous(), retain_graph=True)
    found = torch.autograd.grad(output, leaves, grad)
    assert all(torch.equal(value, other) for value, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_computes_locations_in_float32(dtype):
    """At column 1300 of a level a float16 coordinate would be wrong by half a pixel."""
    width = 1333
    ramp = (torch.arange(width) % 64 / 16).to(dtype).view(1, width, 1, 1)
    pixels = torch.tensor([9.25, 650.25, 1030.25, 1300.25])
    locations = torch.stack(((pixels + 0.5) / width, torch.full((4,), 0.5)), 1).view(1, 4, 1, 1, 1, 2)
    output = ms_deform_attn(ramp, [(1, width)], [0], locations, torch.ones(1, 4, 1, 1, 1))
    torch.testing.assert_close(output.flatten(), (pixels % 64 / 16).to(dtype), rtol=0, atol=0.004)


def test_gradients_repeat_bit_for_bit_with_any_threads():
    """1, 2, 3 and 7 threads give the same bits."""
    case = Case(2, 3, 40, 9, 11, 3, 60, 4, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = by_cpu(case)
        for number in (2, 3, 7):
            torch.set_num_threads(number)
            for name, value in by_cpu(case).items():
                assert torch.equal(value, first[name]), f"{name} with {number} threads"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("live", LEAVES)
def test_frozen_arguments_get_no_gradient_work(live, monkeypatch):
    """The kernels return nothing for an argument that needs no gradient, and the others are right."""
    from dcnlab.ops.cpu import ms_deform_attn as cpu

    results = []
    backward = cpu.backward
    monkeypatch.setattr(cpu, "backward", lambda *args: results.append(backward(*args)) or results[-1])
    case = Case()
    tensors = case.tensors()
    tensors[live].requires_grad_()
    ms_deform_attn(*tensors.values()).backward(case.grad())
    assert [name for name, grad in results[0]._asdict().items() if grad is not None] == [live]
    assert_near({live: tensors[live].grad}, {live: by_reference(case)[live]}, case)


def test_autocast_casts_value_but_not_locations_or_weights():
    """The output is bfloat16; gradients of the leaves stay float32."""
    case = Case(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = by_cpu(case)
    assert found["output"].dtype == torch.bfloat16
    assert all(found[name].dtype == torch.float32 for name in LEAVES)
    assert_near(found, by_reference(case), case, tolerance=0.03)


def test_attention_is_one_node_in_fx():
    """torch.fx must not trace into it."""

    class Module(torch.nn.Module):
        def forward(self, value, shapes, starts, locations, weights):
            return ms_deform_attn(value, shapes, starts, locations, weights)

    graph = torch.fx.symbolic_trace(Module()).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [ms_deform_attn]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": lambda t: t[0]}, r"value: expected \(N, S, M, D\), got shape \(72, 2, 4\)"),
        ({"value": lambda t: t.long()}, "value: expected dtype"),
        (
            {"value": lambda t: t[:, :-1]},
            r"spatial_shapes: levels \[\[7, 8\], \[4, 4\]\] have 72 pixels, but value has 71",
        ),
        ({"value": lambda t: t[:, :, :1]}, "sampling_locations: the shape of the"),
        ({"spatial_shapes": lambda t: t[:1]}, r"spatial_shapes: .* is \(1, 2\), expected \(2, 2\)"),
        ({"spatial_shapes": lambda t: t.float()}, "spatial_shapes: expected dtype int64, got torch.float32"),
        ({"spatial_shapes": lambda t: 3}, "spatial_shapes: expected a tensor or a list, got int"),
        ({"spatial_shapes": lambda t: [(7, 8), "x"]}, "spatial_shapes: expected a tensor or a list of whole numbers"),
        ({"spatial_shapes": lambda t: t * torch.tensor([1, 0])}, "spatial_shapes: a level of 7x0 has no pixel"),
        ({"level_start_index": lambda t: t[:1]}, r"level_start_index: .* is \(1,\), expected \(2,\)"),
        ({"level_start_index": lambda t: t + 1}, r"level_start_index: expected \[0, 56\] for levels .*, got \[1, 57\]"),
        ({"sampling_locations": lambda t: t[..., 0]}, "sampling_locations: expected "),
        ({"sampling_locations": lambda t: t[:, :, :1]}, "sampling_locations: the shape of the"),
        ({"sampling_locations": lambda t: t.long()}, "sampling_locations: expected dtype"),
        ({"attention_weights": lambda t: t[..., :1]}, "attention_weights: the shape of the"),
        ({"attention_weights": lambda t: t[:1]}, "attention_weights: the shape of the"),
        ({"attention_weights": lambda t: None}, "attention_weights: "),
        ({"normalized": lambda t: 64}, "normalized: expected True or False, got 64"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(change, message):
    """Each error is an ArgumentError of one line that starts with the argument's name."""
    arguments = Case().tensors() | {"normalized": True}
    ((name, changed),) = change.items()
    arguments[name] = changed(arguments[name])
    with pytest.raises(ArgumentError, match=f"^{message}") as error:
        functools.partial(ms_deform_attn, **arguments)()
    assert "\n" not in str(error.value)
