"""The picture of a confusion matrix, by its data: colours, percentages, sizes and names."""

import math

import numpy as np
import pytest

from dcnlab.metrics import confusion
from dcnlab.tasks import confusion_picture
from dcnlab.tasks.confusion_picture import ZOOM


def brightness(colour):
    return sum(colour) / 3


def test_colours_darken_with_the_fraction_and_show_a_hundredth():
    """Zero is nearly white, one is dark, a hundredth differs visibly from zero, and no label is grey."""
    shades = [brightness(confusion_picture.colour(fraction)) for fraction in (0, 0.01, 0.1, 0.5, 1)]
    assert shades == sorted(shades, reverse=True)
    assert shades[0] > 235
    assert shades[-1] < 80
    assert shades[0] - shades[1] > 10
    assert len(set(confusion_picture.colour(math.nan))) == 1


def test_cells_say_whole_percent():
    """Percent are rounded, what would read as 0 is marked, and 0 itself is left empty."""
    says = [confusion_picture.percentage(value) for value in (1, 0.754, 0.006, 0.004, 0, math.nan)]
    assert says == ["100", "75", "1", "<1", "", ""]


@pytest.mark.parametrize(("classes", "least_text"), [(5, 15), (12, 15), (25, 12), (50, 9), (100, 0)])
def test_cells_shrink_but_names_stay_legible(classes, least_text):
    """Percentages fit their cells up to 50 classes, and the pitch of the names is never below their height."""
    names = [f"class {number:03}" for number in range(classes)]
    place = confusion_picture.layout(confusion.of(names, np.eye(classes), "images"))
    assert place.text == ZOOM * least_text
    assert place.cell >= ZOOM * 15 > confusion_picture._font(12).getbbox("Mg")[3]
    widest = confusion_picture._font(place.text // ZOOM).getlength("100") if place.text else 0
    assert widest < place.cell
    assert place.size[0] >= place.left + classes * place.cell
    assert place.size[1] >= place.top + classes * place.cell


def test_each_cell_has_the_colour_of_its_fraction():
    """Rows are labels: of class a three in four are found as a and one as b."""
    matrix = confusion.of(["a", "b"], [[3, 1], [0, 0]], "images")
    picture, place = confusion_picture.draw(matrix), confusion_picture.layout(matrix)
    corner = [
        picture.getpixel((place.left + column * place.cell + 2, place.top + row * place.cell + 2))
        for row, column in ((0, 0), (0, 1), (1, 0))
    ]
    assert corner == [confusion_picture.colour(value) for value in (0.75, 0.25, math.nan)]


def test_long_names_stand_upright_and_are_shortened():
    """Short names lie above their columns; a name of a sentence does not push the matrix off the page."""
    short, long = (confusion.of([name, "b"], np.eye(2), "pixels") for name in ("a", "a long name " * 9))
    assert not confusion_picture.layout(short).upright
    assert confusion_picture.layout(long).upright
    assert confusion_picture.names_of(long)[0].endswith("…")
    assert confusion_picture.layout(long).size[0] < 900


def test_more_classes_than_a_screen_shows_are_not_drawn():
    """ImageNet's thousand would be an unreadable field; the counts are still kept."""
    assert confusion_picture.draw(confusion.of(list(map(str, range(201))), np.eye(201), "images")) is None
