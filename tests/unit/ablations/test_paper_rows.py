"""Which row of the paper's tables a run belongs to."""

import pytest

from dcnlab.ablations.tables import paper_rows

THREE_DEFORMABLE = {
    "task": "segmentation",
    "model.name": "deeplab",
    "model.deform_layers": 3,
    "model.deform_kind": "deformable",
    "model.deform_pooling": False,
    "model.modulated": False,
    "model.dilation": 2,
    "model.spatial_transformer": False,
    "optim.offset_lr_scale": 0.1,
}


@pytest.mark.parametrize(("table", "row"), [("table1", 3), ("table3", "deformable convolution")])
def test_deformable_layers_are_the_papers_row(table, row):
    """Three deformable layers stand in both tables."""
    assert paper_rows.label(table, THREE_DEFORMABLE) == row


@pytest.mark.parametrize(
    "control",
    [
        {"optim.offset_lr_scale": 0.0},
        {"model.deform_kind": "active"},
        {"model.modulated": True},
        {"test.offsets": "zero"},
    ],
    ids=str,
)
@pytest.mark.parametrize("table", ["table1", "table3"])
def test_controls_are_no_row_of_the_paper(table, control):
    """The paper has no value for offsets that stay zero, nor for other layers."""
    assert paper_rows.label(table, THREE_DEFORMABLE | control) is None
