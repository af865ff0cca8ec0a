"""A setting that nothing reads is refused in one line that names what would read it."""

import dataclasses

import pytest

from dcnlab.config import names, packaged, read_by
from dcnlab.config.keys import all_keys, type_of
from dcnlab.config.load import load_experiment, load_run, to_yaml
from dcnlab.config.unread import readers, unread_values
from dcnlab.io.errors import ConfigError

DIGITS = "trainer: {max_steps: 1}\n"


@pytest.fixture
def experiment(tmp_path):
    """A function that writes an experiment file and gives its path."""

    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


REFUSED = [
    ("detection/quickstart", "data.root=MINE", "data.name is digits; data.name own or voc or coco or yolo reads it"),
    ("segmentation/quickstart", "data.root=MINE", "data.name own or voc or cityscapes or camvid or imagelist reads it"),
    ("classification/quickstart", "model.backbone.freeze_at=5", "task segmentation or detection reads it"),
    ("classification/quickstart", "model.backbone.freeze_norm=true", "task segmentation or detection reads it"),
    ("classification/quickstart", "data.flip=false", "task segmentation or detection reads it"),
    ("classification/quickstart", "data.shorter_side=64", "task segmentation or detection reads it"),
    ("classification/quickstart", "data.protocol=coco", "task detection reads it"),
    ("classification/quickstart", "test.flip=true", "task segmentation or detection reads it"),
    ("classification/quickstart", "model.rpn.sampled=64", "task detection reads it"),
    ("classification/quickstart", "data.options.depth=3", "data.name package.module:Class reads it"),
    ("classification/quickstart", "optim.milestones=[0.5]", "optim.schedule is cosine; optim.schedule step reads it"),
    ("detection/quickstart", "data.crop_size=[64, 64]", "task is detection; task segmentation reads it"),
    ("detection/quickstart", "optim.label_smoothing=0.1", "task classification reads it"),
    ("segmentation/quickstart", "model.fc_channels=64", "model.name faster_rcnn or faster_rcnn_fpn reads it"),
]


@pytest.mark.parametrize(("name", "override", "says"), REFUSED)
def test_an_override_that_nothing_reads_is_refused(name, override, says):
    """The line names the command line, the key, its value, the present name and the names that read it."""
    key = override.partition("=")[0].removesuffix(".depth")
    with pytest.raises(ConfigError) as caught:
        load_experiment(name, [override])
    text = str(caught.value)
    assert text.startswith(f"command line: {key} is ")
    assert says in text
    assert "\n" not in text


def test_one_cycle_refuses_a_warm_up():
    """The cycle rises by itself; an experiment's own warm-up is without effect under it, as its milestones are."""
    with pytest.raises(ConfigError, match=r"optim\.warmup is 9, which nothing reads where optim\.schedule is one"):
        load_experiment("classification/quickstart", ["optim.schedule=one_cycle", "optim.warmup=9"])
    config = load_experiment("detection/quickstart", ["optim.schedule=one_cycle"])
    assert config.optim.schedule == "one_cycle"


def test_files_and_sweeps_are_held_to_the_same_rule(experiment):
    """An experiment file and a sweep's parameters may not state such a key either; the line names the source."""
    path = experiment("data: {root: MINE}\n" + DIGITS)
    with pytest.raises(ConfigError, match=r"mine\.yaml: data\.root is 'MINE', which nothing reads"):
        load_experiment(path)
    with pytest.raises(ConfigError, match=r"^sweep: test\.flip is true"):
        load_experiment("classification/quickstart", parameters={"test.flip": True})


def test_defaults_and_zero_pictures_ask_for_nothing():
    """A key at its default changes nothing, and a classifier draws no pictures anyway."""
    config = load_experiment("classification/quickstart", ["data.flip=true", "test.flip=false", "test.pictures=0"])
    assert config.data.flip
    assert config.test.pictures == 0


def test_the_keys_of_a_replaced_data_set_may_stay(experiment):
    """README: quickstart's digits give way to photographs; what its file says of digits is not the user's mistake."""
    words = ["data.name=imagefolder", "data.root=FLOWERS", "data.val=null", "data.image_size=224"]
    config = load_experiment("classification/quickstart", words)
    assert set(unread_values(config)) == {"data.rotation", "data.clutter", "data.test_length"}
    base = experiment("data: {root: MINE}\n" + DIGITS, "base.yaml")
    leaf = experiment(f"extends: {base}\ntask: detection\ndata: {{name: coco}}\nmodel: {{name: rfcn}}\n", "leaf.yaml")
    assert load_experiment(leaf).data.root == "MINE"


def test_a_class_from_outside_may_read_every_key(experiment):
    """Nobody knows which keys a data set of the user's own reads."""
    path = experiment("data: {name: 'json:loads', root: MINE, options: {depth: 3}, flip: false}\n" + DIGITS)
    with pytest.raises(ConfigError, match=r"data\.flip is false, which nothing reads where task"):
        load_experiment(path)
    assert load_experiment(path, ["data.flip=true"]).data.root == "MINE"


def test_scoring_refuses_what_only_a_training_reads(tmp_path):
    """Over a trained network optim.lr=3 changes nothing; test.flip=true nothing in a classifier's test."""
    config = load_experiment("classification/quickstart")
    config.data.shorter_side = 64  # an earlier version let it pass, and its runs still load
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    for override, says in (
        ("optim.lr=3", "optim.lr is 3.0, which only a training reads"),
        ("trainer.max_steps=9", "trainer.max_steps is 9, which only a training reads"),
        ("seed=4", "seed is 4, which only a training reads"),
        ("test.flip=true", "test.flip is true, which nothing reads where task is classification"),
    ):
        with pytest.raises(ConfigError, match=f"^command line: {says}"):
            load_run(tmp_path, [override])
    assert load_run(tmp_path, ["test.rotation=90", "optim.lr=0.01"]).test.rotation == 90
    assert load_run(tmp_path, ["trainer.max_steps=9"], trains=True).trainer.max_steps == 9
    assert load_experiment(str(tmp_path / "config.yaml")).data.shorter_side == 64


@pytest.mark.parametrize("name", [name for name in packaged.names("experiments") if "/base" not in name])
def test_packaged_experiments_state_nothing_without_effect(name):
    """Also what a file inherits is read: no packaged experiment carries a value without effect."""
    assert unread_values(load_experiment(name, default_root="ROOT")) == {}


def test_every_condition_names_what_exists():
    """The names in the schema are those of the tables of data sets, networks and backbones."""
    known = {
        "task": names.TASKS,
        "data.name": names.DATA_SETS,
        "model.name": names.NETWORKS,
        "model.backbone.name": names.BACKBONES,
        "optim.schedule": ("step", "cosine", "poly", "one_cycle"),
        "optim.warmup_kind": ("linear", "constant"),
    }
    keys = [key for key in all_keys() if not dataclasses.is_dataclass(type_of(key))]
    conditions = {(other, value) for key in keys for other, values in readers(key).items() for value in values}
    assert len(conditions) > 20
    for other, value in conditions:
        assert value in known[other] or (value == read_by.OWN and other.endswith("name")), (other, value)
