"""The printed recipe, and a step of ours compared with that of a program that sums gradients."""

import pytest
import torch
from command_line import dcnlab
from torch import nn

from dcnlab.ablations import rates, recipe
from dcnlab.ablations.tables import recipe_rates
from dcnlab.config.schema import OptimConfig
from dcnlab.tasks.optim import optimizer_and_schedule, rate_factor


def test_a_step_of_ours_is_the_authors_step_of_summed_gradients():
    """COCO's form on 8 images: two steps equal those of 8 processes' summed gradients at 5e-4, decay 5e-4."""
    torch.manual_seed(0)
    ours = nn.Linear(6, 3).double()
    weight, bias = (parameter.detach().clone() for parameter in ours.parameters())
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    config = recipe.load("detection/rfcn_coco_authors", ["optim.warmup=0"])
    optimizer, _ = optimizer_and_schedule(ours, config.optim, 100)
    for _ in range(2):
        images, wanted = torch.randn(8, 6).double(), torch.randn(8, 3).double()
        # Ours: the mean of the images' losses, which is what ranks and accumulated batches come to.
        optimizer.zero_grad()
        ((ours(images) - wanted) ** 2).sum(1).mean().backward()
        optimizer.step()
        # Theirs: a process an image, each with its own gradient, all added up; decay on weights, not on biases.
        errors = 2 * (images @ weight.T + bias - wanted)
        gradients = [sum(torch.outer(error, image) for error, image in zip(errors, images, strict=True)), sum(errors)]
        for number, (value, decay) in enumerate(((weight, 5e-4), (bias, 0.0))):
            speed[number] = 0.9 * speed[number] - 5e-4 * (gradients[number] + decay * value)
            value += speed[number]
    torch.testing.assert_close(ours.weight.detach(), weight, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.bias.detach(), bias, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["linear", "constant"])
@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_the_sum_of_rates_is_that_of_every_step(schedule, kind):
    """What is summed between drops equals the plain sum over the steps."""
    optim = OptimConfig(schedule=schedule, milestones=[0.4, 70], warmup=7, warmup_kind=kind)
    assert rates._factors(optim, 97) == pytest.approx(sum(rate_factor(step, 97, optim) for step in range(97)))


def test_the_table_states_every_recipe_in_one_form():
    """The paper's, the authors', detectron2's and ours; the numbers of three of them worked by hand."""
    rows = {row[1]: row for row in recipe_rates.table()}
    assert {row[0] for row in rows.values()} == {"paper", "authors", "detectron2", "ours"}
    # 20,000 steps of 1e-3 and 10,000 of 1e-4.
    assert rows["rfcn_voc"][2:] == ["0.001 of 8", "0.000125", "240,000", "21.0", "0.0005"]
    # A thousand steps at a tenth, 38,971 at 2e-3, 17,957 at 2e-4.
    total = 1000 * 2e-4 + 38_971 * 2e-3 + 17_957 * 2e-4
    assert rows["rfcn_voc_authors"][2:] == ["0.002 of 4", "0.0005", "231,712", f"{total:.1f}", "0.000125"]
    assert rows["rfcn_coco_authors"][2:4] + rows["rfcn_coco_authors"][6:] == ["0.004 of 8", "0.0005", "6.25e-05"]
    assert rows["mask_rcnn_R_50_FPN_3x_dconv_c3-c5"][2:5] == ["0.02 of 16", "0.00125", "4,320,000"]
    assert rows["faster_rcnn_fpn_coco"][0] == "ours"


def test_a_recipe_fits_a_screen_and_names_all_that_is_asked():
    """Weights, rate an image, decay, schedule in images, warm-up, anchors, samples, pooling and test; 24 lines."""
    done = dcnlab("recipe", "detection/rfcn_voc", "optim.warmup=500")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert len(lines) == len(done.stdout.splitlines()) <= 24
    assert "ResNet101_Weights.IMAGENET1K_V1, https://download.pytorch.org/models/resnet101-" in lines["weights"]
    assert "0.001 on the mean of 8 images, 0.000125 an image" in lines["rate"]
    assert lines["decay"].startswith("0.0005 on the mean, 0.004 for a sum of 8 gradients")
    assert "240,000 images in 30,000 steps" in lines["schedule"]
    assert "a tenth from image 160,000 on" in lines["schedule"]
    assert lines["warm-up"] == "500 steps, 4,000 images, linear"
    assert "scales 8, 16, 32, ratios 0.5, 1, 2" in lines["anchors"]
    assert "256 anchors; 6000 proposals before suppression, 300 after; 128 RoIs" in lines["samples"]
    assert lines["pooling"] == "plain, mean; far edge exact"
    assert "NMS 0.3" in lines["test"]


def test_a_recipe_says_only_what_its_task_and_optimizer_have():
    """The embedded digits are squares without a mean; AdamW's decay has no form for a sum; nothing is frozen."""
    lines = dict(recipe.lines(recipe.load("classification/quickstart", ())))
    assert lines["images"] == "squares of 56 pixels"
    assert "sum" not in lines["decay"]
    assert lines["backbone"].endswith("frozen: nothing")
    assert "anchors" not in lines


def test_the_recipe_hashes_weights_that_are_there(tmp_path):
    """A file's line holds its sha256, as sha256sum prints it."""
    (tmp_path / "w.pt").write_bytes(b"weights")
    lines = dict(recipe.lines(recipe.load("segmentation/deeplab_voc", [f"model.backbone.weights={tmp_path}/w.pt"])))
    digest = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert lines["weights"] == f"{tmp_path}/w.pt, sha256 {digest}"
