"""The contact sheet shows what it says."""

import torch
from torchvision.io import read_image

from dcnlab.data.digits.datasets import DigitClassification
from dcnlab.data.digits.preview import contact_sheet
from dcnlab.data.digits.scenes import CLASSES, DigitScenes


def test_a_sheet_of_scenes_shows_pictures_boxes_and_outlines(tmp_path):
    """A pixel on a box has its colour, and an empty cell the background's."""
    scenes = DigitScenes("val", length=5)
    path = contact_sheet(scenes, CLASSES, tmp_path / "new" / "sheet.png", rows=2, columns=3)
    sheet = read_image(str(path))
    # Two rows of three pictures, each three times as large, 4 pixels apart; the sixth is missing.
    assert sheet.shape == (3, 2 * 172 + 4, 3 * 172 + 4)
    x1, y1, x2, _ = (scenes[0].boxes[0] * 3).int().tolist()
    assert sheet[:, 4 + y1, 4 + (x1 + x2) // 2].tolist() == [255, 92, 92]
    assert torch.all(sheet[:, 176:, 350:] == 90)


def test_a_sheet_of_images_and_labels_frames_each_picture(tmp_path):
    path = contact_sheet(DigitClassification(DigitScenes("val")), CLASSES, tmp_path / "sheet.png", rows=1, columns=2)
    sheet = read_image(str(path))
    assert sheet.shape == (3, 176, 348)
    assert sheet[:, 4, 60].tolist() == [255, 92, 92]
