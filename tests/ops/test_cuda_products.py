"""Which switch decides over TF32 in the operators' matrix products."""

import pytest
import torch

from dcnlab.ops.cuda.products import convolution_precision


@pytest.fixture(autouse=True)
def _switches():
    before = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("matmul", ["ieee", "tf32"])
@pytest.mark.parametrize("conv", ["ieee", "tf32"])
def test_products_follow_the_convolutions_switch_and_leave_the_other_as_it_was(conv, matmul):
    torch.backends.cudnn.conv.fp32_precision = conv
    torch.backends.cuda.matmul.fp32_precision = matmul
    with convolution_precision():
        assert torch.backends.cuda.matmul.fp32_precision == conv
    assert torch.backends.cuda.matmul.fp32_precision == matmul
    with pytest.raises(ZeroDivisionError), convolution_precision():
        raise ZeroDivisionError
    assert torch.backends.cuda.matmul.fp32_precision == matmul


def test_the_older_switch_counts_too():
    torch.backends.cudnn.allow_tf32 = False
    try:
        with convolution_precision():
            assert torch.backends.cuda.matmul.fp32_precision != "tf32"
    finally:
        torch.backends.cudnn.allow_tf32 = True
