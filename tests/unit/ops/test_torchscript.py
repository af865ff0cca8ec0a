"""torch.jit.trace of layers whose parameters want gradients: as fresh ones do, also saved and loaded elsewhere."""

import itertools
import subprocess
import sys

import pytest
import torch
from command_line import python
from op_cases import OPERATORS

from dcnlab.nn import DeformConv2d, DeformRoIPool
from dcnlab.surgery import deform

DTYPES = [torch.float32, torch.bfloat16]


class Pooling(torch.nn.Module):
    """A pooling layer of one argument."""

    def __init__(self):
        super().__init__()
        self.pool = DeformRoIPool(4, 3)
        self.boxes = torch.tensor([[0, 1.0, 2.0, 6.0, 7.0], [1, 0.0, 0.0, 4.0, 5.0]])

    def forward(self, input):
        return self.pool(input, self.boxes)


LAYERS = {
    "DeformConv2d": lambda: DeformConv2d(4, 6, 3, padding=1),
    "modulated": lambda: DeformConv2d(4, 6, 3, padding=1, modulated=True),
    "pooling": Pooling,
    "a deformed network": lambda: deform(torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3), torch.nn.Conv2d(6, 2, 3)), 1),
}


def test_layers_are_traced_saved_and_run_in_another_process(tmp_path):
    """A fresh process that imports dcnlab.ops alone loads each layer in each dtype and gives the same output."""
    torch.manual_seed(0)
    for name, dtype in itertools.product(LAYERS, DTYPES):
        layer, input = LAYERS[name]().eval().to(dtype), torch.randn(2, 4, 8, 8).to(dtype)
        assert all(parameter.requires_grad for parameter in layer.parameters())
        traced = torch.jit.trace(layer, input)  # its own check runs it again
        torch.jit.save(traced, tmp_path / f"{name} {dtype}.pt")
        other = torch.randn(2, 4, 8, 8).to(dtype)
        torch.save((other, layer(other).detach()), tmp_path / f"{name} {dtype}.expected")
    code = (
        "import glob, sys, torch, dcnlab.ops\n"
        "for path in sorted(glob.glob(sys.argv[1] + '/*.pt')):\n"
        "    print(path)\n"
        "    input, expected = torch.load(path[:-3] + '.expected')\n"
        "    output = torch.jit.load(path)(input)\n"
        "    torch.testing.assert_close(output.detach(), expected)\n"
        "    output.float().square().sum().backward()\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == len(LAYERS) * len(DTYPES)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_traced_operator_still_has_its_gradients(name):
    operator = OPERATORS[name]
    case = operator.case(torch.float32)
    call, tensors = operator.of_tensors(case)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    traced = torch.jit.trace(call, leaves)
    grad = case.grad()
    found = torch.autograd.grad(traced(*leaves), leaves, grad)
    expected = torch.autograd.grad(call(*leaves), leaves, grad)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other)


def test_tracing_a_layer_warns_no_more_than_nn_conv2d():
    """stderr of torch.jit.trace is compared with that of nn.Conv2d."""
    code = (
        "import torch; from dcnlab.nn import DeformConv2d\n"
        "torch.jit.trace(DeformConv2d(4, 6, 3, padding=1), torch.randn(2, 4, 8, 8))"
    )
    plain = code.replace("DeformConv2d(", "torch.nn.Conv2d(")
    ours, theirs = (python("-c", text) for text in (code, plain))
    assert (ours.returncode, theirs.returncode) == (0, 0)
    assert ours.stderr == theirs.stderr
