"""The contact sheet shows what it says: boxes in their class's colour, names outside them, and titled images."""

import numpy as np
from PIL import Image

from dcnlab.data.digits.datasets import DigitClassification
from dcnlab.data.digits.scenes import CLASSES, DigitScenes
from dcnlab.tasks.box_drawing import class_colours
from dcnlab.tasks.scene_sheet import contact_sheet


def test_a_sheet_of_scenes_shows_boxes_in_their_colours(tmp_path):
    """The upper edge of a scene's first box has the colour of its class; the sixth cell is empty."""
    scenes = DigitScenes("val", length=5)
    path = contact_sheet(scenes, CLASSES, tmp_path / "new" / "sheet.png", rows=2, columns=3)
    sheet = np.asarray(Image.open(path))
    zoom = 4
    cell = zoom * scenes[0].image.shape[1] + 4
    assert sheet.shape == (2 * cell, 3 * cell, 3)
    x1, y1, _, _ = (scenes[0].boxes[0] * zoom).int().tolist()
    edge = sheet[2 + y1 + 1 : 2 + y1 + 60, 2 + x1].tolist()
    assert list(class_colours(CLASSES)[int(scenes[0].labels[0])]) in edge
    assert np.all(sheet[cell:, 2 * cell :] == 245)


def test_a_name_stands_outside_its_box_where_there_is_room(tmp_path):
    """Below or above a box, a block of the class's colour as high as a label holds the name; the ink stays free."""
    scenes = DigitScenes("val", length=1, digits=1)
    sheet = np.asarray(Image.open(contact_sheet(scenes, CLASSES, tmp_path / "sheet.png", rows=1, columns=1))).astype(
        int
    )
    x1, y1, x2, y2 = (scenes[0].boxes[0] * 4).int().tolist()
    colour = np.array(class_colours(CLASSES)[int(scenes[0].labels[0])])
    same = np.all(sheet == colour, axis=2)
    inside = same[2 + y1 + 4 : 2 + y2 - 4, 2 + x1 + 4 : 2 + x2 - 4]
    outside = same.copy()
    outside[2 + y1 - 2 : 2 + y2 + 2] = False
    assert outside.sum() > 60
    solid = np.lib.stride_tricks.sliding_window_view(inside, (9, 5)).all((2, 3))
    assert not solid.any()


def test_a_sheet_of_images_writes_the_class_above(tmp_path):
    """The title takes a line above the image, so that it hides nothing of it."""
    data = DigitClassification(DigitScenes("val"))
    path = contact_sheet(data, CLASSES, tmp_path / "sheet.png", rows=1, columns=2)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[0] > 168 + 18
    assert sheet[:18, :168].min() < 60
    assert sheet[:18, :168].max() == 245
