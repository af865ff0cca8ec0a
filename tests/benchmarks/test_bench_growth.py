"""The growth figure: limits from the data, and one legend for all panels."""

import growth


def rows(axis, ats):
    """Times of 2 and 20 ms an item, without memory."""
    return [{"axis": axis, "at": at, "ours_ms": 2.0 * at, "torchvision_ms": 20.0 * at} for at in ats]


def test_axes_end_at_the_data_and_the_legend_is_one():
    """No panel leaves room for a legend above its largest value: at most half a decade."""
    figure = growth.figure_of([*rows("batch", (1, 2, 4)), *rows("RoIs", (8, 32))])
    assert len(figure.axes) == 2
    for panel, largest in zip(figure.axes, (80.0, 640.0), strict=True):
        low, high = panel.get_ylim()
        assert largest < high < 3 * largest
        assert low > 0.5
        assert panel.get_legend() is None
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dcnlab", "torchvision (RoIs: roi_align)"]
    assert figure.axes[1].get_xlabel() == "number of RoIs"
