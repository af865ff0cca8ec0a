"""The test's options: box voting worked by hand, sizes and mirror images that lead back to the image."""

import pytest
import torch
from detection_cases import EVERY, TinyBackbone, made, same, two_scenes
from locations import ROOT
from torch import nn

from dcnlab.config.load import load_experiment
from dcnlab.data.resize import longer_limits, resized
from dcnlab.io.errors import ConfigError
from dcnlab.models.anchors import RPNSettings
from dcnlab.models.class_aware_rpn import ClassAwareRPN
from dcnlab.models.detector import DetectionSettings, Detector
from dcnlab.models.multi_scale import TABLE5_SIDES, average_boxes, detect, mirror


def detections(rows):
    boxes, labels, scores = zip(*rows, strict=True)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.tensor(labels),
        "scores": torch.tensor(scores),
    }


def test_box_voting_equals_a_hand_worked_case():
    """Boxes of the same class with overlap of at least 1/2 are averaged by score."""
    candidates = detections(
        [
            ([0.0, 0, 10, 10], 1, 0.6),
            ([2.0, 0, 10, 10], 1, 0.3),  # overlap 0.8
            ([0.0, 0, 10, 5], 1, 0.1),  # 0.5: counts
            ([0.0, 0, 10, 4.9], 1, 0.9),  # 0.49: does not
            ([0.0, 0, 10, 10], 2, 0.8),  # another class
            ([40.0, 40, 50, 50], 1, 0.2),  # alone
        ]
    )
    kept = detections([([0.0, 0, 10, 10], 1, 0.6), ([40.0, 40, 50, 50], 1, 0.2)])
    found = average_boxes(kept, candidates)
    # x1: (0.6 * 0 + 0.3 * 2 + 0.1 * 0) / 1; y2: (0.6 * 10 + 0.3 * 10 + 0.1 * 5) / 1.
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.6, 0, 10, 9.5], [40, 40, 50, 50]]))
    assert torch.equal(found["scores"], kept["scores"])
    assert torch.equal(found["labels"], kept["labels"])


def test_no_detections_average_to_no_boxes():
    """Averaging empty detections gives boxes of shape (0, 4)."""
    none = {name: values[:0] for name, values in detections([([0.0, 0, 1, 1], 1, 0.5)]).items()}
    assert average_boxes(none, none)["boxes"].shape == (0, 4)


class Bright(Detector):
    """Finds the bright rectangle of an image, as a second look at whatever is proposed to it."""

    takes_proposals = True

    def __init__(self, corners=((0, 0, 0, 0),)):
        super().__init__(1, DetectionSettings())
        self.corners = corners
        self.asked: list = []

    def losses(self, batch, targets):
        raise AssertionError("what is tested here does not train")

    def score(self, batch, proposals):
        self.asked.append((tuple(batch.tensors.shape[-2:]), None if proposals is None else proposals[0].tolist()))
        rows, columns = (batch.tensors[0, 0] > 0.5).nonzero(as_tuple=True)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        box = torch.tensor([float(corner) for corner in corners])
        found = [(box + torch.tensor(shift)).tolist() for shift in self.corners]
        return [detections([(row, 1, 0.5) for row in found])]


def bright_image() -> torch.Tensor:
    image = torch.zeros(3, 40, 60)
    image[:, 10:30, 6:26] = 1
    return image


def test_scaled_and_flipped_boxes_return_to_the_image():
    """Six views of one bright object give one box; the longer side's limit holds."""
    model = Bright()
    found = detect(model, bright_image(), shorter_sides=(40, 80, 200), longer_sides=(150, 150, 150), flip=True)
    # 200 would be 300 long: 150 it is.
    assert [size for size, _ in model.asked] == [(40, 60)] * 2 + [(80, 120)] * 2 + [(100, 150)] * 2
    assert found["boxes"].shape == (1, 4)  # six candidates on one place
    torch.testing.assert_close(found["boxes"], torch.tensor([[6.0, 10, 26, 30]]), atol=0.5, rtol=0)
    candidates = [detect(Bright(), bright_image(), (side,))["boxes"] for side in (40, 80)]
    torch.testing.assert_close(candidates[0], candidates[1], atol=0.5, rtol=0)


@pytest.mark.parametrize("size", [(3, 500), (500, 3)])
def test_a_thin_image_keeps_a_side_of_one_pixel(size):
    """3x500 pixels resized to 60 would have a side of 0."""
    found = detect(made("class_aware_rpn"), torch.randn(3, *size), [40], longer_sides=[60])
    assert torch.isfinite(found["boxes"]).all()


def test_table_5s_command_makes_six_distinct_sizes():
    """The page and the sweep share one command; it makes six sizes of COCO's usual image, each with its own limit."""
    words = "'test.shorter_sides=[480,576,688,864,1200,1400]' test.box_rounds=1"
    for path in ("docs/experiments.md", "sweeps/table5_rfcn_aligned_inception_coco.yaml"):
        assert f"dcnlab evaluate RUN {words}\n" in (ROOT / path).read_text()
    config = load_experiment("detection/rfcn_coco", ["data.root=somewhere", *words.replace("'", "").split()])
    sides = config.test.shorter_sides
    assert tuple(sides) == TABLE5_SIDES
    limits = longer_limits(sides, config.test.longer_sides, config.data.shorter_side, config.data.longer_side)
    assert limits == [800, 960, 1147, 1440, 2000, 2333]
    for height, width in ((480, 640), (640, 427), (300, 640)):
        sizes = [resized(height, width, side, most) for side, most in zip(sides, limits, strict=True)]
        assert len(set(sizes)) == 6
    assert [min(resized(480, 640, side, most)) for side, most in zip(sides, limits, strict=True)] == list(sides)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("test.shorter_sides=[688,864] test.longer_sides=[1000,1000]", "holds 1000 twice"),
        ("test.shorter_sides=[688,688]", "holds 688 twice"),
        ("test.shorter_sides=[688,864] test.longer_sides=[1200,1100]", "must grow as test.shorter_sides"),
        ("test.shorter_sides=[688,864] test.longer_sides=[1200]", "must hold 2 numbers"),
        ("test.longer_sides=[1200]", "must hold 0 numbers"),
        ("test.shorter_sides=[688] test.longer_sides=[600]", "at least that"),
    ],
)
def test_sides_that_give_the_same_image_are_refused(words, said):
    """One line names the field and the sides."""
    with pytest.raises(ConfigError, match=said) as error:
        load_experiment("detection/rfcn_coco", ["data.root=somewhere", *words.split()])
    assert "\n" not in str(error.value)


def test_flipping_boxes_twice_gives_the_same_boxes():
    """In an image 60 pixels wide, 6 to 26 becomes 34 to 54 and back."""
    box = torch.tensor([[6.0, 10, 26, 30]])
    assert mirror(box, 60).tolist() == [[34, 10, 54, 30]]
    assert torch.equal(mirror(mirror(box, 60), 60), box)


def test_each_box_round_scores_the_kept_boxes_again():
    """The second round's proposals are the boxes that NMS kept; their average is the result."""
    model = Bright(corners=((0, 0, 0, 0), (2, 0, 2, 0)))
    found = detect(model, bright_image(), rounds=2)
    kept = [[6.0, 10.0, 26.0, 30.0]]
    assert [proposed for _, proposed in model.asked] == [None, kept, kept]
    # Three looks, each with both boxes at equal scores: the average lies midway.
    torch.testing.assert_close(found["boxes"], torch.tensor([[7.0, 10, 27, 30]]))
    plain = detect(Bright(corners=((0, 0, 0, 0), (2, 0, 2, 0))), bright_image())
    assert plain["boxes"].tolist() == kept


@pytest.mark.parametrize("name", EVERY)
def test_without_options_test_time_equals_the_model(name):
    """Detections are the model's own; with options they stay inside the image."""
    image = two_scenes()[0][0]
    model = made(name)
    with torch.no_grad():
        same(detect(model, image), model([image])[0])
        averaged = detect(model, image, shorter_sides=(64, 96), flip=True, rounds=1)
    assert len(averaged["boxes"]) > 0
    assert averaged["boxes"].min() >= 0
    assert averaged["boxes"][:, 2].max() <= 80 + 1e-3


def test_a_class_aware_rpn_gets_no_second_round():
    """It takes no proposals, so box rounds only average its candidates."""
    model = ClassAwareRPN(TinyBackbone(), 2, channels=8, rpn=RPNSettings(scales=(4,), hidden_channels=8))
    nn.init.normal_(model.rpn.class_scores.weight, std=1.0)
    image = two_scenes()[0][0]
    with torch.no_grad():
        plain, averaged = detect(model, image), detect(model, image, rounds=3)
        expected = average_boxes(plain, model.candidates([image])[0])
    same(averaged, expected)
