"""The tasks and data modules with anybody's Trainer and DataLoader, and their checkpoints."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from dcnlab.config import schema
from dcnlab.config.load import load_experiment
from dcnlab.config.schema import BackboneConfig, Config, DataConfig, ModelConfig, OptimConfig
from dcnlab.data.digits.data_module import DigitsDataModule
from dcnlab.data.digits.rendering import Geometry
from dcnlab.data.module import collate_lists
from dcnlab.io.errors import ConfigError
from dcnlab.tasks.classification import Classification
from dcnlab.tasks.detection import Detection
from dcnlab.tasks.segmentation import Segmentation

SLIM = {"deform_layers": 1, "backbone": BackboneConfig(name="resnet10_slim")}
MODELS = {
    Classification: ModelConfig(**SLIM),
    Segmentation: ModelConfig(name="deeplab", head_channels=8, **SLIM),
    Detection: ModelConfig(name="class_aware_rpn", head_channels=8, **SLIM),
}


def config_of(task):
    return Config(task=task.__name__.lower(), data=DataConfig(image_size=32), model=MODELS[task])


def trainer(folder, **options):
    return pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"enable_checkpointing": False, **options},
    )


@pytest.fixture(autouse=True)
def no_advice():
    """Lightning's advice on loader processes is not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class OneBox(nn.Module):
    """A detector, as torchvision's are called, that finds one box of class 1 in each image."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images, targets=None):
        if targets is not None:
            return {"loss": self.weight * len(images)}
        box = {"boxes": torch.tensor([[2.0, 2.0, 10.0, 10.0]]), "labels": torch.tensor([1])}
        return [{**box, "scores": torch.tensor([0.9])} for _ in images]


def boxes_loader(hits):
    """Four images, in `hits` of which the one box of class 1 is where `OneBox` finds it; none has a number."""
    there, elsewhere = torch.tensor([[2.0, 2.0, 10.0, 10.0]]), torch.tensor([[20.0, 20.0, 30.0, 30.0]])
    items = [
        (torch.zeros(3, 32, 32), {"boxes": there if number < hits else elsewhere, "labels": torch.tensor([1])})
        for number in range(4)
    ]
    return DataLoader(items, batch_size=2, collate_fn=collate_lists)


@pytest.mark.parametrize("protocol", ["voc", "coco"])
def test_detection_takes_ones_own_detector_loader_and_trainer(tmp_path, protocol):
    """With targets of boxes and labels alone, it trains, and AP is of all images: all or none are found."""
    task = Detection(OneBox(), ["thing"], protocol=protocol)
    run = trainer(tmp_path)
    run.fit(task, boxes_loader(4), boxes_loader(4))
    assert run.callback_metrics["val/ap50"] == pytest.approx(100)
    assert float(task.model.weight) < 1
    (scores,) = run.test(task, boxes_loader(0), verbose=False)
    assert scores["test/ap50"] == pytest.approx(0)
    (scores,) = run.test(task, boxes_loader(2), verbose=False)
    assert scores["test/ap50"] == pytest.approx(50, abs=1)  # half of the boxes, the first two of equal scores
    assert len(task.detections.scores) == 4


def test_boxes_that_need_not_be_found_count_for_nothing(tmp_path):
    """A difficult box that is not found does not lower VOC's AP."""
    there, elsewhere = torch.tensor([[2.0, 2.0, 10.0, 10.0]]), torch.tensor([[20.0, 20.0, 30.0, 30.0]])
    difficult = {"labels": torch.tensor([1, 1]), "difficult": torch.tensor([0, 1])}
    items = [(torch.zeros(3, 32, 32), {"boxes": torch.cat([there, elsewhere]), **difficult})]
    task = Detection(OneBox(), ["thing"])
    (scores,) = trainer(tmp_path).test(task, DataLoader(items, collate_fn=collate_lists), verbose=False)
    assert scores["test/ap50"] == pytest.approx(100)


@pytest.mark.parametrize("task", MODELS)
def test_a_task_of_a_config_trains_with_ones_own_loader(tmp_path, task):
    """Built from a config, with a DataLoader of one's own and Lightning's Trainer: it trains, validates and tests."""
    data = DigitsDataModule(Geometry(32), train_length=8, test_length=4, task=task.__name__.lower())
    loaders = [DataLoader(split, 4, collate_fn=data.collate) for split in (data.train, data.test)]
    module = task.from_config(config_of(task), data.classes)
    run = trainer(tmp_path)
    run.fit(module, *loaders)
    run.test(module, loaders[1], verbose=False)
    assert "train/loss" in run.logged_metrics or run.callback_metrics
    assert any(name.startswith("test/") for name in run.callback_metrics)


def test_our_data_module_feeds_anybodys_module(tmp_path):
    """A LightningModule of one's own trains on DigitsDataModule with Lightning's Trainer and its defaults."""

    class Linear(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(3 * 32 * 32, 10), 0

        def training_step(self, batch, index):
            images, labels = batch
            self.seen += len(images)
            return nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Linear()
    trainer(tmp_path).fit(module, datamodule=DigitsDataModule(Geometry(32), train_length=8, batch_size=4))
    assert module.seen == 8


@pytest.mark.parametrize("task", MODELS)
def test_a_checkpoint_of_any_trainer_gives_the_task_again(tmp_path, task):
    """load_from_checkpoint builds network and task from the file alone; hparams holds plain values."""
    module = task.from_config(config_of(task), ["a", "b"])
    run = trainer(tmp_path, enable_checkpointing=True)
    run.strategy.connect(module)
    run.save_checkpoint(tmp_path / "mine.ckpt")
    again = task.load_from_checkpoint(tmp_path / "mine.ckpt", map_location="cpu")
    assert again.classes == ["a", "b"]
    assert again.config.model == module.config.model
    assert again.optim == module.optim
    weights, others = module.state_dict(), again.state_dict()
    assert list(weights) == list(others)
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert module.hparams.optim["lr"] == 0.05
    torch.load(tmp_path / "mine.ckpt", weights_only=True)


def test_a_checkpoint_of_a_given_network_wants_it_again(tmp_path):
    """Without `model` the error says so; with it everything else comes from the file."""
    layers = nn.Sequential(nn.Conv2d(3, 2, 1))
    module = Segmentation(layers, ["a", "b"], OptimConfig(lr=0.5), schema.TestConfig(flip=True), mean=(0, 0, 0))
    run = trainer(tmp_path)
    run.strategy.connect(module)
    run.save_checkpoint(tmp_path / "mine.ckpt")
    with pytest.raises(ConfigError, match=r"give it again: model=\.\.\."):
        Segmentation.load_from_checkpoint(tmp_path / "mine.ckpt")
    again = Segmentation.load_from_checkpoint(tmp_path / "mine.ckpt", model=nn.Sequential(nn.Conv2d(3, 2, 1)))
    assert (again.optim.lr, again.testing.flip, again.mean) == (0.5, True, [0, 0, 0])
    assert torch.equal(again.model[0].weight, layers[0].weight)


def test_a_runs_checkpoint_gives_its_task(trained_tasks):
    """`Segmentation.load_from_checkpoint(RUN/checkpoints/last.ckpt)` needs nothing else."""
    path = trained_tasks / "runs/segmentation/run/checkpoints/last.ckpt"
    module = Segmentation.load_from_checkpoint(path)
    assert module.config.model.deform_layers == 1
    assert module.classes == ["background", "blue", "red"]
    with pytest.raises(ConfigError, match="holds another network"):
        Segmentation.load_from_checkpoint(path, model=nn.Conv2d(3, 3, 1))


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path):
    """The error names the file, of rubbish and of a checkpoint without hyperparameters."""
    (tmp_path / "rubbish.ckpt").write_bytes(b"rubbish")
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(ConfigError, match=r"rubbish\.ckpt is not a whole checkpoint"):
        Classification.load_from_checkpoint(tmp_path / "rubbish.ckpt")
    with pytest.raises(ConfigError, match=r"bare\.ckpt holds no hyper_parameters of a task; dcnlab\.load"):
        Classification.load_from_checkpoint(tmp_path / "bare.ckpt")


def test_a_runs_experiment_file_gives_the_same_task(tiny):
    """A task of `from_config` has the settings of its experiment in hparams."""
    module = Classification.from_config(load_experiment(tiny), list("0123456789"))
    assert module.hparams.settings["data.image_size"] == 28
