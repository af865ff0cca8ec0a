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
    if operator.reads_maps:
        arguments[0] = arguments[0].to(memory_format=form)
    elif form == torch.channels_last:  # strided in memory; what comes out is contiguous
        arguments[0] = arguments[0].transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(getattr(torch.ops.dcnlab, name).default, tuple(arguments))
    gradients = [True] * operator.gradients
    backward = getattr(torch.ops.dcnlab, f"{name}_backward").default
    torch.library.opcheck(backward, (case.grad(), *arguments, gradients))


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_passes_with_arguments_that_need_gradients(name):
    """opcheck then also runs the registered backward pass."""
    arguments = OPERATORS[name].registered(OPERATORS[name].case(torch.float32))
    for position in OPERATORS[name].leaves:
        arguments[position].requires_grad_()
    torch.library.opcheck(getattr(torch.ops.dcnlab, name).default, tuple(arguments))


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_passes_for_every_set_of_gradients(name):
    """Each combination of needed gradients has the right fake shapes."""
    operator = OPERATORS[name]
    backward = getattr(torch.ops.dcnlab, f"{name}_backward").default
    plain = [{"modulated": False} if name == "deform_conv2d" else {"shifted": False}] if operator.reads_maps else []
    for options in ({}, *plain):
        case = operator.case(torch.float32, **options)
        arguments = operator.registered(case)
        for needed in itertools.product([False, True], repeat=operator.gradients):
            absent = 2 if name == "deform_conv2d" else 1
            if options and needed[absent]:
                continue
            tests = ("test_schema", "test_faketensor")
            torch.library.opcheck(backward, (case.grad(), *arguments, list(needed)), test_utils=tests)
