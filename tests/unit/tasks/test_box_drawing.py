"""Boxes are drawn in bright colours, and their labels cover no other label."""

import numpy as np
import pytest
import torch
from PIL import Image

from dcnlab.tasks.box_drawing import _free_place, class_colours, draw_boxes
from dcnlab.tasks.box_pictures import detection_panel
from dcnlab.tasks.class_pictures import class_panel
from dcnlab.tasks.label_pictures import label_picture
from dcnlab.tasks.pictures import grid


def luminance(colour):
    """As ITU-R BT.601 weighs red, green and blue, 0 to 255."""
    return np.dot(colour, (0.299, 0.587, 0.114))


def test_colours_stand_out_from_black_and_from_each_other():
    """Thirty classes have thirty colours, each far brighter than a dark photograph; background alone is black."""
    colours = class_colours([str(number) for number in range(30)])
    assert len(set(colours)) == 30
    assert min(map(luminance, colours)) > 90
    assert class_colours(["background", "sky"]) == [(0, 0, 0), class_colours(["sky"])[0]]


def test_labels_do_not_cover_each_other():
    """Of labels at one corner each takes another place; the one without a free place is left out."""
    taken = []
    for _ in range(9):
        place = _free_place((20, 20, 60, 60), 15, (80, 80), taken)
        if place is None:
            break
        assert all(
            place[2] <= other[0] or other[2] <= place[0] or place[3] <= other[1] or other[3] <= place[1]
            for other in taken
        )
        assert min(place) >= 0
        assert max(place) <= 80
        taken.append(place)
    assert (len(taken), place) == (8, None)


def test_a_box_has_a_dark_rim_on_either_side():
    """Across a side of the box lie black, two bright pixels, black: it shows on dark and on pale photographs."""
    picture = Image.new("RGB", (60, 60), (128, 128, 128))
    assert draw_boxes(picture, [(20, 20, 50, 50)], [1], [None], ["ball"], 0.0) == [1]
    row = [picture.getpixel((x, 45)) for x in range(18, 24)]
    bright = class_colours(["ball"])[0]
    assert row == [(128, 128, 128), (0, 0, 0), bright, bright, (0, 0, 0), (128, 128, 128)]


def found(scores):
    return {
        "boxes": torch.tensor([[2.0, 2, 20, 20]]).repeat(len(scores), 1),
        "labels": torch.ones(len(scores), dtype=torch.int64),
        "scores": torch.tensor(scores),
    }


def test_a_panel_without_detections_says_so(monkeypatch):
    """The title names the best box below the score, or says that there is none."""
    titles = []
    monkeypatch.setattr("dcnlab.tasks.box_pictures.side_by_side", lambda pictures, names, legend: titles.append(names))
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for scores in ([0.11], [], [0.5]):
        detection_panel(Image.new("RGB", (30, 30)), target, found(scores), ["jack"])
    assert titles == [
        ["annotated: nothing", "found: nothing of score 0.3; best: jack 0.11"],
        ["annotated: nothing", "found: nothing"],
        ["annotated: nothing", "found, score 0.3 or more"],
    ]


def test_the_first_class_of_a_label_map_is_not_black():
    """A class 0 that is not the background has a colour; unknown pixels are white."""
    image = Image.new("RGB", (200, 100))
    labels = torch.zeros(100, 200, dtype=torch.int64)
    labels[:, 100:] = 255
    drawn = label_picture(image, labels, ["sky", "road"])
    sky = class_colours(["sky"])[0]
    assert drawn.getpixel((50, 60)) == pytest.approx(tuple(part // 2 for part in sky), abs=1)
    assert drawn.getpixel((150, 60)) == (127, 127, 127)


def test_rows_and_columns_fit_their_largest_picture():
    """Three pictures in two columns: widths 30 and 20, heights 20 and 40."""
    sheet = grid([Image.new("RGB", size) for size in ((10, 20), (20, 10), (30, 40))], 2)
    assert sheet.size == (50, 60)
    panel = class_panel(
        [(Image.new("RGB", (56, 56)), "a"), (Image.new("RGB", (56, 56)), "a long name of a class " * 2)]
    )
    assert panel.width > 2 * 168 + 18
