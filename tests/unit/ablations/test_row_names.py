"""Rows are named by what differs, in the words of papers."""

from dcnlab.ablations.tables.row_names import row_names


def rows(keys, *values):
    return [dict(zip(keys, row, strict=True)) for row in values]


def test_related_work_is_named_as_papers_name_it():
    """Six rows of five settings: what differs from the plain network stands alone."""
    keys = [f"model.{key}" for key in ("deform_layers", "deform_kind", "modulated", "dilation", "spatial_transformer")]
    named = row_names(
        keys,
        rows(
            keys,
            (0, "deformable", False, 1, False),
            (0, "deformable", False, 2, False),
            (3, "active", False, 1, False),
            (0, "deformable", False, 1, True),
            (3, "deformable", False, 1, False),
            (3, "deformable", True, 1, False),
        ),
    )
    assert named == ["plain", "dilation 2", "active", "STN", "3 deformable", "3 deformable modulated"]


def test_layers_and_pooling_are_named_together():
    """Table 3's rows: dilations, pooling alone, and both modules; the usual dilation is not named."""
    keys = ["model.deform_layers", "model.deform_pooling", "model.dilation"]
    values = [(0, False, 2), (0, False, 4), (0, True, 2), (3, False, 2), (3, True, 2)]
    assert row_names(keys, rows(keys, *values)) == [
        *("plain", "dilation 4", "deformable pooling", "3 deformable", "3 deformable, deformable pooling"),
    ]


def test_other_settings_go_by_their_last_word():
    """Rates and commits are named with their key; a missing value is not set."""
    assert row_names(["optim.lr"], rows(["optim.lr"], (0.01,), (None,))) == ["lr 0.01", "lr not set"]
    keys = ["model.deform_layers", "code"]
    named = row_names(keys, rows(keys, (3, "0123456789abcdef-dirty"), (0, "0123456789abcdef")))
    assert named == ["3 deformable, code 012345678-dirty", "code 012345678"]


def test_two_rows_never_share_a_name():
    """Where short names would be equal, all settings are named."""
    keys = ["model.deform_layers", "model.deform_kind"]
    named = row_names(keys, rows(keys, (2, "active"), (3, "active")))
    assert named == ["deform_layers 2, deform_kind active", "deform_layers 3, deform_kind active"]
