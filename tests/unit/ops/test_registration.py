"""torch.library's own check of the registered operators: schema, fake, autograd and dynamic shapes, in every dtype."""

import itertools

import pytest
import torch
from op_cases import DTYPES, OPERATORS

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_passes_for_operators_and_backwards(name, dtype, form):
    """torch.library.opcheck checks schema, fakes and autograd in each dtype and format."""
    operator = OPERATORS[name]
    case = operator.case(dtype)
    arguments = operator.registered(case)
    arguments[0] = arguments[0].to(memory_format=form)
    torch.library.opcheck(getattr(torch.ops.dcnlab, name).default, tuple(arguments))
    gradients = [True] * operator.gradients
    backward = getattr(torch.ops.dcnlab, f"{name}_backward").default
    torch.library.opcheck(backward, (case.grad(), *arguments, gradients))


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_passes_with_arguments_that_need_gradients(name):
    """opcheck then also runs the registered backward pass."""
    arguments = OPERATORS[name].registered(OPERATORS[name].case(torch.float32))
    leaves = [t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in arguments]
    if name != "deform_conv2d":
        leaves[1] = leaves[1].detach()  # boxes have no gradient
    torch.library.opcheck(getattr(torch.ops.dcnlab, name).default, tuple(leaves))


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_passes_for_every_set_of_gradients(name):
    """Each combination of needed gradients has the right fake shapes."""
    operator = OPERATORS[name]
    backward = getattr(torch.ops.dcnlab, f"{name}_backward").default
    plain = {"modulated": False} if name == "deform_conv2d" else {"shifted": False}
    for options in ({}, plain):
        case = operator.case(torch.float32, **options)
        arguments = operator.registered(case)
        for needed in itertools.product([False, True], repeat=operator.gradients):
            absent = 2 if name == "deform_conv2d" else 1
            if options and needed[absent]:
                continue
            tests = ("test_schema", "test_faketensor")
            torch.library.opcheck(backward, (case.grad(), *arguments, list(needed)), test_utils=tests)
