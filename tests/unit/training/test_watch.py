"""Numbers that go wrong stop a training in one line, and never reach its checkpoint."""

import csv
import itertools
import math
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from dcnlab.config.load import load_experiment
from dcnlab.io.errors import ConfigError
from dcnlab.nn import ActiveConv2d, DeformConv2d, DeformRoIPool
from dcnlab.nn.offset_statistics import OffsetStatistics
from dcnlab.training import run as runs
from dcnlab.training.callbacks import cost, divergence, finite_outputs
from dcnlab.training.run_folder import RunFolder


def fit(path, *overrides):
    small = ["logger.wandb=false", "data.classes=[1,7]", "model.deform_layers=2", "id=one"]
    return runs.fit(load_experiment(path, [*small, *overrides]))


def moved(layer, y, x):
    """The layer, with every sampling point moved by the same."""
    with torch.no_grad():
        layer.offset_conv.bias.copy_(torch.tensor([y, x]).repeat(layer.offset_channels // 2))
    return layer


def test_offset_statistics_equal_hand_worked_values():
    """Offset (3, 4) has length 5; the fraction outside the map is counted by hand."""
    maps = torch.zeros(2, 1, 4, 5)
    found = OffsetStatistics.of(moved(DeformConv2d(1, 1, 3, padding=1), 3.0, 4.0), (maps,))
    assert (found.mean.item(), found.max.item(), found.low.item(), found.high.item()) == (5, 5, 3, 4)
    # Row + tap is below 2 for 3 of 12, column + tap for 3 of 15.
    assert found.outside.item() == pytest.approx(100 * (1 - 3 / 12 * 3 / 15))
    plain = OffsetStatistics.of(DeformConv2d(1, 1, 3, padding=1), (maps,))
    assert plain.outside.item() == pytest.approx(100 * (1 - 10 / 12 * 13 / 15))  # the padding's corners and edges
    assert plain.mean.item() == 0


def test_the_fraction_outside_equals_a_count_of_locations():
    """Every location of a random layer is counted one by one."""
    torch.manual_seed(0)
    layer = DeformConv2d(4, 2, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), offset_groups=2)
    torch.nn.init.normal_(layer.offset_conv.weight)
    maps = torch.randn(2, 4, 6, 7)
    offset, _ = layer.offsets(maps)
    height, width = offset.shape[-2:]
    outside = 0
    for image, group, row, column, y, x in itertools.product(*map(range, (2, 2, 3, 2, height, width))):
        dy, dx = offset[image, 12 * group + 4 * row + 2 * column :, y, x][:2].tolist()
        place = 2 * y - 2 + row + dy, x - 1 + 2 * column + dx
        outside += not (-0.5 < place[0] < 5.5 and -0.5 < place[1] < 6.5)
    share = 100 * outside / (2 * 2 * 6 * height * width)
    assert 20 < share < 80
    assert OffsetStatistics.of(layer, (maps,)).outside.item() == pytest.approx(share, abs=1e-3)


def test_pooling_offsets_are_measured_in_box_sides():
    """Mean, min and max by hand; a batch without boxes gives 0, not NaN."""
    pool = DeformRoIPool(2, 3, gamma=0.1)
    with torch.no_grad():
        pool.offset_fc.bias.view(2, 9).copy_(torch.tensor([[3.0], [-4.0]]))
    maps = torch.randn(1, 2, 8, 8)
    found = OffsetStatistics.of(pool, (maps, torch.tensor([[0.0, 1, 1, 6, 6]])))
    assert found.mean.item() == pytest.approx(0.5)
    assert (found.low.item(), found.high.item()) == (pytest.approx(-0.4), pytest.approx(0.3))
    assert OffsetStatistics.of(pool, (maps, torch.zeros(0, 5))).max.item() == 0


def test_active_layers_have_offset_statistics():
    """One of nine offsets is 9: mean 1 and max 9."""
    layer = ActiveConv2d(1, 1, 3, padding=1)
    with torch.no_grad():
        layer.offset[0] = 9.0
    found = OffsetStatistics.of(layer, (torch.zeros(1, 1, 4, 4),))
    assert (found.mean.item(), found.max.item()) == (1, 9)


@pytest.mark.parametrize(
    ("y", "limit", "over"), [(49.0, None, False), (51.0, None, True), (4.9, 4.5, True), (math.nan, 1e9, True)]
)
def test_the_offset_limit_is_ten_map_sides_by_default(y, limit, over):
    """The mean offset length decides, a NaN exceeds every limit, trainer settings may lower it."""
    layer = moved(DeformConv2d(1, 1, 3, padding=1), y, 0.0)
    assert bool(OffsetStatistics.of(layer, (torch.zeros(1, 1, 4, 5),)).exceeds(limit)) is over


def poison(monkeypatch, step, name, number):
    """Fill a parameter with a number before a step."""

    class Cost(cost.Cost):
        def on_train_batch_start(self, trainer, pl_module, *arguments):
            if trainer.global_step == step:
                pl_module.get_parameter(name).data.fill_(number)

    monkeypatch.setattr("dcnlab.training.parts.Cost", Cost)


def kept():
    return torch.load("runs/tiny/one/checkpoints/last.ckpt", weights_only=True)


def assert_failed_at(caught, step):
    line = str(caught.value)
    assert line.startswith(f"the training diverged in step {step}: ")
    assert "\n" not in line
    found = RunFolder(Path("runs/tiny/one")).read_results()
    assert found["status"] == "failed"
    assert line in found["reason"]
    assert all(torch.isfinite(value).all() for value in kept()["state_dict"].values())
    return line


@pytest.mark.parametrize("layer", ["layer1.0.conv2", "layer4.0.conv1"])
def test_a_nan_loss_names_step_layer_and_offsets(tiny, monkeypatch, layer):
    """The run stops at that step with the first wrong layer, and the last good checkpoint stays."""
    poison(monkeypatch, 3, f"model.{layer}.weight", math.nan)
    with pytest.raises(ConfigError) as caught:
        fit(tiny, "trainer.max_steps=8", "logger.every=2")
    line = assert_failed_at(caught, 3)
    assert f", first in {layer}; " in line
    assert re.search(
        r"the offsets of layer4.0.conv[12] reach from \S+ to \S+ pixels on a map of 4, of mean length", line
    )
    assert kept()["global_step"] == 2  # a pass
    with Path("runs/tiny/one/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [row["step"] for row in rows] == ["1"]  # the second step, each second being logged
    for name in ("layer3.0.conv2", "layer4.0.conv1", "layer4.0.conv2"):
        for figure in ("mean", "max", "outside"):
            assert (f"offsets/{name}/{figure}" in rows[0]) == (name != "layer3.0.conv2")
    assert float(rows[0]["offsets/layer4.0.conv2/max"]) >= float(rows[0]["offsets/layer4.0.conv2/mean"]) > 0
    # A fresh 3x3 layer on 4x4 reads its padding at 2 of 12 rows and columns.
    assert float(rows[0]["offsets/layer4.0.conv2/outside"]) == pytest.approx(100 * (1 - (10 / 12) ** 2), abs=3)


def test_exploding_offsets_stop_the_next_logged_step(tiny, monkeypatch):
    """The error names the layer, its range in pixels and its mean length."""
    poison(monkeypatch, 2, "model.layer4.0.conv1.offset_conv.bias", 5000.0)
    with pytest.raises(ConfigError) as caught:
        fit(tiny, "trainer.max_steps=8", "logger.every=4")
    line = assert_failed_at(caught, 3)
    assert "the offsets of layer4.0.conv1 reach from" in line
    assert re.search(r" to 50\d\d pixels on a map of 4, of mean length 70\d\d;", line)


def test_a_gpu_checks_for_nan_when_logging_or_saving(tiny, monkeypatch):
    """Where not every step is checked, the epoch's end finds the first wrong step."""
    monkeypatch.setattr(divergence.StopOnDivergence, "checks_each_step", staticmethod(lambda device: False))
    poison(monkeypatch, 2, "model.layer1.0.conv1.weight", math.nan)
    with pytest.raises(ConfigError) as caught:
        fit(tiny, "trainer.max_steps=8", "logger.every=100")
    line = assert_failed_at(caught, 2)  # known, although the pass had a step more
    assert "train/loss is not finite, and" in line
    assert kept()["global_step"] == 2


def test_an_overflow_in_the_training_precision_is_named(tiny, monkeypatch):
    """The search for the layer must run under the same autocast as the training."""

    class Cost(cost.Cost):
        def on_train_start(self, trainer, pl_module):
            def overflow(layer, arguments, output):
                return output * math.inf if torch.is_autocast_enabled("cpu") and trainer.global_step == 3 else output

            super().on_train_start(trainer, pl_module)
            pl_module.model.layer3[0].conv2.register_forward_hook(overflow)

    monkeypatch.setattr("dcnlab.training.parts.Cost", Cost)
    with pytest.raises(ConfigError) as caught:
        fit(tiny, "trainer.max_steps=8", "trainer.precision=bf16-mixed")
    assert ", first in layer3.0.conv2; " in assert_failed_at(caught, 3)


def test_nonfinite_weights_are_never_saved(tiny, monkeypatch):
    """The last checkpoint is that of the step before."""
    poison(monkeypatch, 3, "model.layer3.0.conv2.weight", math.inf)
    with pytest.raises(ConfigError) as caught:
        fit(tiny, "trainer.max_steps=8", "trainer.checkpoint_every=0")
    assert "layer3.0.conv2.weight is not finite" in assert_failed_at(caught, 3)
    assert kept()["global_step"] == 2


def test_an_infinite_gradient_names_its_first_layer(tiny, monkeypatch):
    """The first layer in backward order whose gradient is not finite is named with its step."""

    class Cost(cost.Cost):
        def on_train_batch_start(self, trainer, pl_module, *arguments):
            layer = pl_module.model.layer3[0].conv2
            if trainer.global_step == 2:
                layer.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * math.inf,))

    monkeypatch.setattr("dcnlab.training.parts.Cost", Cost)
    with pytest.raises(ConfigError) as caught:
        fit(tiny, "trainer.max_steps=8")
    assert "the gradient of layer3.0.bn1.bias is not finite" in assert_failed_at(caught, 2)


def test_clipping_scales_the_whole_steps_gradient(tiny):
    """Over four accumulated batches the update has norm lr x clip_norm and the unclipped direction."""
    plain = ["optim.momentum=0", "optim.weight_decay=0", "optim.milestones=[]", "trainer.max_steps=1"]
    plain += ["data.batch_size=8", "trainer.effective_batch=32"]  # four batches to the step
    weights = []
    for name, more in (("start", ["optim.lr=0"]), ("free", ["optim.lr=0.5"]), ("cut", ["optim.lr=0.5"])):
        clip = ["optim.clip_norm=0.125"] if name == "cut" else []
        folder = fit(tiny, *plain, *more, *clip, f"id={name}")
        state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        learnt = [value.flatten() for key, value in state.items() if "running" not in key and "num_" not in key]
        weights.append(torch.cat(learnt).double())
    free, cut = weights[1] - weights[0], weights[2] - weights[0]
    norm = free.norm() / 0.5
    assert norm > 0.5  # so that there is something to cut
    assert cut.norm().item() == pytest.approx(0.5 * 0.125, rel=1e-3)
    assert torch.allclose(cut, free * (0.125 / norm), atol=1e-6)


class Overflowing(pl.LightningModule):
    """Its layer's output is not a number in validation batch 1."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential()
        self.model.add_module("fc", torch.nn.Linear(2, 1))

    def training_step(self, batch, batch_idx):
        return self.model(batch).mean()

    def validation_step(self, batch, batch_idx):
        self.model(batch if batch_idx != 1 else batch * math.inf)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def test_nonfinite_validation_outputs_warn_once_per_epoch(caplog, tmp_path):
    """The warning names the layer and the batch, and the training continues."""
    loader = torch.utils.data.DataLoader(torch.ones(6, 2), batch_size=2)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        callbacks=[finite_outputs.FiniteOutputs()],
        default_root_dir=tmp_path,
    )
    with caplog.at_level("WARNING", "dcnlab"):
        trainer.fit(Overflowing(), loader, loader)
    said = [record.getMessage() for record in caplog.records if record.name == "dcnlab"]
    assert said == [
        f"the scores of the validation after step {step} are worthless: "
        "in trainer.precision=32-true the output of fc is not finite in batch 1"
        for step in (3, 6)
    ]
    assert trainer.global_step == 6
