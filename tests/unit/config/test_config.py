"""Every mistake in a config is one line that names the field and what would be right."""

import ast
import inspect
import itertools
import json
import re

import pytest

from dcnlab.config import identity, names, packaged, schema
from dcnlab.config.load import load_experiment, load_run, to_yaml
from dcnlab.config.path_checks import check_paths
from dcnlab.config.schema import Config, TrainerConfig
from dcnlab.io.errors import ConfigError
from dcnlab.training.run import fit


@pytest.fixture
def experiment(tmp_path):
    """A function that writes an experiment file and gives its path."""

    def write(text, name="quick.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def message(call, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


STEPS = "trainer: {max_steps: 2}\n"


def test_command_line_overrides_sweep_file_extends_defaults(experiment, tmp_path):
    """Later sources win: defaults, extends, the file, the sweep's parameters, then the command line."""
    optim = "optim: {lr: 1, momentum: 0.1, weight_decay: 0.1, warmup: 1}\n"
    experiment(optim + "model: {dilation: 7}\n" + STEPS, "base.yaml")
    experiment("extends: base.yaml\noptim: {momentum: 0.2, weight_decay: 0.2, warmup: 2}\n", "middle.yaml")
    leaf = experiment("extends: middle.yaml\noptim: {weight_decay: 0.3, warmup: 3}\n", "leaf.yaml")
    args = tmp_path / "args.json"
    args.write_text(json.dumps({"optim": {"warmup": 4}, "model.deform_layers": 1, "seed": 8}))
    tree = load_experiment(leaf, ["seed=9", str(args)])
    assert tree.data.batch_size == Config().data.batch_size
    assert (tree.optim.lr, tree.optim.momentum, tree.optim.weight_decay, tree.optim.warmup) == (1, 0.2, 0.3, 4)
    assert (tree.model.dilation, tree.model.deform_layers, tree.seed) == (7, 1, 9)
    assert tree.sweep == {"optim.warmup": 4, "model.deform_layers": 1, "seed": 9}


def test_a_run_without_a_name_is_called_like_its_file(experiment):
    """Without the key name, mine.yaml gives runs of the name mine."""
    assert load_experiment(experiment(STEPS, "mine.yaml")).name == "mine"
    assert load_experiment(experiment("name: other\n" + STEPS)).name == "other"


def test_extends_is_relative_to_the_file_that_says_it(experiment):
    """The base is looked up next to the file that names it, not in the current folder."""
    experiment("seed: 5\n" + STEPS, "bases/base.yaml")
    assert load_experiment(experiment("extends: ../bases/base.yaml\n", "leaves/leaf.yaml")).seed == 5


@pytest.mark.parametrize("base", ["detection/rfcn_cards_small", "detection/rfcn_cards_small.yaml"])
def test_extends_finds_packaged_experiments_from_anywhere(experiment, tmp_path, monkeypatch, base):
    """A name of `dcnlab list` is found from a folder outside the checkout; a file next to the experiment wins."""
    monkeypatch.chdir(tmp_path)
    path = experiment(f"extends: {base}\ndata: {{root: MINE}}\n", "elsewhere/mine.yaml")
    assert load_experiment(path).model.name == "rfcn"
    experiment("seed: 5\n" + STEPS, "elsewhere/detection/rfcn_cards_small.yaml")
    nearer = load_experiment(experiment("extends: detection/rfcn_cards_small.yaml\n", "elsewhere/other.yaml"))
    assert (nearer.seed, nearer.model.name) == (5, "resnet")


def test_extends_finds_experiments_inside_an_installed_wheel(experiment, tmp_path, monkeypatch):
    """A wheel has its experiments in dcnlab/_files: names and files that these extend are found there."""
    monkeypatch.setattr(packaged, "PACKAGE", tmp_path / "site-packages/dcnlab")
    (tmp_path / "site-packages/dcnlab/_files/sweeps").mkdir(parents=True)
    experiment("seed: 7\n" + STEPS, "site-packages/dcnlab/_files/experiments/task/base.yaml")
    experiment("extends: base.yaml\n", "site-packages/dcnlab/_files/experiments/task/small.yaml")
    assert load_experiment(experiment("extends: task/small\n", "home/mine.yaml")).seed == 7
    assert "nearest: task/small" in message(load_experiment, experiment("extends: task/smal\n", "home/mine.yaml"))


def test_an_extends_circle_is_named(experiment):
    experiment("extends: b.yaml\n", "a.yaml")
    text = message(load_experiment, experiment("extends: a.yaml\n", "b.yaml"))
    assert "a.yaml: extends b.yaml, which extends it in turn" in text


def test_a_missing_base_is_named_with_the_nearest(experiment):
    experiment(STEPS, "base.yaml")
    text = message(load_experiment, experiment("extends: bace.yaml\n"))
    assert "quick.yaml: extends bace.yaml" in text
    assert "nearest: base.yaml" in text


def test_a_misspelt_key_names_the_file_and_the_nearest_key(experiment):
    text = message(load_experiment, experiment("model: {deform_layer: 3}\n" + STEPS))
    assert text.endswith("quick.yaml: no such key model.deform_layer; nearest: model.deform_layers")


def test_a_misspelt_override_names_the_command_line(experiment):
    text = message(load_experiment, experiment(STEPS), ["model.deform_layer=3"])
    assert text == "command line: no such key model.deform_layer; nearest: model.deform_layers"


def test_a_key_without_its_section_suggests_the_full_key(experiment):
    """deform_layers=3 is answered with model.deform_layers."""
    assert message(load_experiment, experiment(STEPS), ["deform_layers=3"]).endswith("nearest: model.deform_layers")


def test_an_unrecognizable_key_lists_all_keys(experiment):
    """Where no key is near, the message lists the keys that exist."""
    assert "there are: name, seed, task" in message(load_experiment, experiment(STEPS), ["qqqq=3"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.deform_layers=three", "model.deform_layers is 'three'; it must be a whole number"),
        ("model.deform_layers=1.5", "model.deform_layers is 1.5; it must be a whole number"),
        ("model.deform_layers=", "model.deform_layers is null; it must be a whole number"),
        ("optim.lr=true", "optim.lr is true; it must be a number"),
        ("optim.milestones=0.5", "optim.milestones is 0.5; it must be a list of numbers"),
        ("data.scale=[1]", "data.scale is [1]; it must be a list of 2 numbers"),
        ("data.train=3", "data.train is 3; it must be text or a list of texts"),
        ("trainer.max_steps=1e3", "trainer.max_steps is 1000.0; it must be a whole number or null"),
        ("model=3", "model is 3; it must be a section with the keys name, backbone"),
        ("seed={a: 1}", "seed is {'a': 1}; it must be a whole number"),
        ("model.modulated=maybe", "model.modulated is 'maybe'; it must be true or false"),
        ("data.batch_size=0", "data.batch_size is 0; it must be at least 1"),
        ("optim.momentum=2", "optim.momentum is 2; it must be between 0 and 1"),
        ("optim.momentum=1", "optim.momentum is 1; it must be below 1"),
        ("out=", "out is ''; it must be the folder where run folders are made"),
        ("model.deform_layers=-1", "model.deform_layers is -1; it must be at least 0"),
        ("data.name=digit", "data.name is 'digit'; nearest: digits; choose from: digits, imagefolder"),
        ("data.name=imagefolder", "data.root is null; data.name imagefolder needs the folder of the data set"),
        ("model.backbone.name=resnet51", "model.backbone.name is 'resnet51'; nearest: resnet5"),
        ("trainer.precision=fp16", "trainer.precision is 'fp16'; "),
        ("trainer.devices=all", "trainer.devices is 'all'; choose from: auto"),
        ("data.scale=[2,1]", "data.scale is [2.0, 1.0]; it must be two numbers above 0, the smaller one first"),
        ("optim.milestones=[0.5,0.2]", "optim.milestones is [0.5, 0.2]; the numbers must be above 0 and grow"),
        ("test.rotation=400", "test.rotation is 400; it must be between -360 and 360"),
        ("test.magnification=0", "test.magnification is 0; it must be between 0.1 and 10"),
        ("name=../up", "name is '../up'; it names a folder"),
        ("seed=-1", "seed is -1; it must be between 0 and 4294967295"),
        ("seed=${nothing}", "nothing"),
        ("seed=[1", "seed=[1: the value is not YAML"),
        ("=3", "=3: not of the form key=value"),
    ],
)
def test_a_wrong_value_names_field_value_and_what_is_allowed(experiment, override, says):
    """Wrong types, ranges, choices and malformed overrides each name the key, its value and the rule."""
    assert says in message(load_experiment, experiment(STEPS), [override])


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("id=8959e0729791", "id", "8959e0729791"),  # YAML reads infinity
        ("id=001234567012", "id", "001234567012"),  # and an octal number
        ("id=007", "id", "007"),
        ("id=on", "id", "on"),
        ("id=null", "id", None),
        ("name=1e3", "name", "1e3"),
        ("out=runs # x", "out", "runs # x"),
        ("out=runs/lr=1", "out", "runs/lr=1"),
    ],
)
def test_command_line_text_needs_no_quotes(experiment, override, key, value):
    """Texts that YAML would read as something else stay as they were typed."""
    assert getattr(load_experiment(experiment(STEPS), [override]), key) == value


def test_a_parameter_file_may_lie_below_an_equals_sign(experiment, tmp_path):
    """lr=1/parameters.json is read as a file, not as an override of the key lr."""
    args = tmp_path / "lr=1" / "parameters.json"
    args.parent.mkdir()
    args.write_text('{"seed": 4}')
    assert load_experiment(experiment(STEPS), [str(args)]).sweep == {"seed": 4}


def test_a_value_out_of_range_names_its_source(experiment):
    """The message begins with the command line or the file, whichever holds the value."""
    held, broken = experiment(STEPS), experiment("optim: {lr: -1}\n" + STEPS, "broken.yaml")
    assert message(load_experiment, held, ["optim.lr=-1"]) == "command line: optim.lr is -1; it must be at least 0"
    assert message(load_experiment, held, ["data.name=imagefolder"]).startswith("command line: data.root is null")
    assert message(load_experiment, broken, ["seed=1"]) == f"{broken}: optim.lr is -1; it must be at least 0"


def test_an_experiment_without_any_length_is_refused(experiment):
    """max_steps and max_epochs both null would train forever."""
    assert "trainer.max_steps and trainer.max_epochs are both null" in message(load_experiment, experiment("seed: 1\n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1\n", "must be a mapping"),
        ("a: [1\n", "not YAML"),
        ("seed: 1\nseed: 2\n", "not YAML: while constructing a mapping"),
        ("!!python/object/apply:os.system [echo]\n", "not YAML"),
        ("1: 2\n", "the key 1 is not a name"),
        ("\x00", "not YAML"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(experiment, text, says):
    assert says in message(load_experiment, experiment(text))


def test_an_empty_section_is_the_same_as_none(experiment):
    """ "model:" without keys is None in YAML and must not remove the defaults."""
    tree = load_experiment(experiment("model:\n" + STEPS))
    assert tree.model == Config().model


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "must be a JSON object"),
        ("{", "not JSON"),
        ('{"modle.deform_layers": 1}', "nearest: model.deform_layer"),
    ],
)
def test_a_broken_args_file_is_refused_in_one_line(experiment, tmp_path, text, says):
    args = tmp_path / "args.json"
    args.write_text(text)
    line = message(load_experiment, experiment(STEPS), [str(args)])
    assert says in line
    assert line.startswith(str(args))


def test_an_argument_must_be_an_override_or_a_file(experiment):
    """A word without an equals sign that names no file is refused in one line."""
    text = message(load_experiment, experiment(STEPS), ["deform"])
    assert text.startswith("deform: no such file; after the experiment")


def test_a_missing_experiment_names_the_nearest_file(experiment):
    path = experiment(STEPS)
    assert f"nearest: {path}" in message(load_experiment, path.replace("quick", "quik"))


def test_a_packaged_name_is_found_without_its_ending(tmp_path, monkeypatch):
    (tmp_path / "experiments/classification").mkdir(parents=True)
    (tmp_path / "experiments/classification/quickstart.yaml").write_text(STEPS)
    monkeypatch.setattr(packaged, "folder", lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path.parent)
    bare = "classification/quickstart"
    for name in (bare, f"{bare}.yaml", f"experiments/{bare}.yaml"):
        assert packaged.find("experiments", name).read_text() == STEPS
    assert "nearest: classification/quickstart" in message(packaged.find, "experiments", "clasification/quickstart")


def test_the_folder_in_a_wheel_comes_before_the_checkouts(tmp_path, monkeypatch):
    """A checkout uses its top folders, an installed wheel those inside the package."""
    monkeypatch.setattr(packaged, "PACKAGE", tmp_path / "dcnlab")
    (tmp_path / "sweeps").mkdir()
    assert packaged.folder("sweeps") == tmp_path / "sweeps"
    (tmp_path / "dcnlab/_files/sweeps").mkdir(parents=True)
    assert packaged.folder("sweeps") == tmp_path / "dcnlab/_files/sweeps"
    with pytest.raises(FileNotFoundError, match="installation is incomplete"):
        packaged.folder("experiments")


def test_a_saved_config_reads_back_equal(experiment, tmp_path):
    """config.yaml of a run loads to an equal config, parameters and lists of texts included."""
    args = tmp_path / "args.json"
    args.write_text('{"model.deform_layers": 2, "data.scale": [1, 2]}')
    tree = load_experiment(experiment(STEPS), [str(args), "data.train=[a,b]", "data.classes=['1','2']"])
    (tmp_path / "config.yaml").write_text(to_yaml(tree))
    assert load_run(tmp_path) == tree


def test_settings_ignore_where_a_run_happens(experiment):
    """Output folder, id, threads and logging do not make another run."""
    path = experiment(STEPS)
    plain = identity.settings(load_experiment(path))
    where = ["out=a", "id=b", "trainer.threads=1", "trainer.progress=false", "logger.wandb=false"]
    elsewhere = load_experiment(path, where)
    assert identity.settings(elsewhere) == plain
    assert identity.settings(load_experiment(path, ["optim.lr=3"])) != plain


def test_only_values_other_than_defaults_count_as_changed(experiment):
    """A config of an older version, which lacks a key, is equal where the key has its default."""
    path = experiment(STEPS)
    assert identity.changed(identity.settings(load_experiment(path, ["optim.lr=3"]))) == {
        "optim.lr": 3,
        "trainer.max_steps": 2,
    }
    # A version that knew one key less.
    found = identity.settings(load_experiment(path))
    older = {key: value for key, value in found.items() if key != "optim.schedule"}
    assert identity.changed(older) == identity.changed(found)


def test_a_missing_data_root_and_missing_weights_are_named(experiment, tmp_path):
    (tmp_path / "flowers").mkdir()
    path = experiment(STEPS)
    tree = load_experiment(path, ["data.name=imagefolder", f"data.root={tmp_path}/flowrs"])
    assert f"nearest: {tmp_path}/flowers" in message(check_paths, tree)
    tree = load_experiment(path, ["model.backbone.weights=imagnet"])
    assert "it must be none, imagenet, imagenet_v2 or a file" in message(check_paths, tree)


@pytest.mark.parametrize("override", ["test.rotation=10", "test.magnification=2"])
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_tasks_without_test_rotation_name_those_with_it(task, override):
    """test.rotation and test.magnification exist for classification alone."""
    key, _, value = override.partition("=")
    said = message(load_experiment, f"{task}/quickstart", [override])
    assert said.endswith(f"{key} is {value}; {task} has none, classification does")


def test_every_config_field_has_a_docstring():
    """In the schema each field is followed by its explanation."""
    for section in ast.parse(inspect.getsource(schema)).body:
        if isinstance(section, ast.ClassDef) and section.name.endswith("Config"):
            for item, after in itertools.pairwise(section.body):
                if isinstance(item, ast.AnnAssign):
                    explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    assert explained, f"{section.name}.{ast.unparse(item.target)}"


def test_docstrings_list_all_data_sets_and_networks():
    """The names in the schema's docstrings equal those of config/names.py."""
    text = inspect.getsource(schema)
    for section, known in (
        ("DataConfig", names.DATA_SETS),
        ("BackboneConfig", names.BACKBONES),
        ("ModelConfig", names.NETWORKS),
    ):
        explained = text.partition(f"class {section}:")[2].partition("    name: str =")[2].split('"""')[1]
        assert set(known) <= set(re.findall(r"\w+", explained)), section


def test_every_data_set_of_the_table_has_a_reader():
    """The table of names and the readers of both tasks hold the same data sets."""
    from dcnlab.data.detection import data_module as detection
    from dcnlab.data.segmentation import data_module as segmentation

    assert {"digits", "own", *segmentation.READERS} == set(names.data_sets("segmentation"))
    assert {"digits", "own", "yolo", *detection.READERS} == set(names.data_sets("detection"))


@pytest.mark.parametrize("ability", ["deform_pooling", "ohem", "spatial_transformer"])
def test_a_missing_ability_names_the_networks_that_have_it(ability):
    """Deformable pooling, OHEM and the spatial transformer are refused where a network lacks them."""
    for name, network in names.NETWORKS.items():
        overrides = [f"task={network.task}", f"model.name={name}", f"model.{ability}=true"]
        if getattr(network, ability):
            assert getattr(load_experiment("classification/quickstart", overrides).model, ability)
        else:
            said = message(load_experiment, "classification/quickstart", overrides)
            able = ", ".join(names.networks_with(ability))
            assert said == f"command line: model.{ability} is true; {name} has none, {able} do"


@pytest.mark.parametrize("kind", ["active", "added"])
def test_only_deformable_layers_are_modulated(kind):
    """Active and added convolutions have no sampling points to weigh: one line names both keys."""
    overrides = ["model.deform_layers=1", f"model.deform_kind={kind}"]
    assert load_experiment("classification/quickstart", overrides).model.deform_kind == kind
    said = message(load_experiment, "classification/quickstart", [*overrides, "model.modulated=true"])
    refusal = f"model.modulated is true; model.deform_kind {kind} has no weights of sampling points"
    assert said == f"command line: {refusal}"


def test_a_control_takes_a_depthwise_branch():
    """Its offset convolution is that of the deformable layer it is compared with; an active layer has none."""
    added, active = (["model.offset_branch=depthwise", f"model.deform_kind={kind}"] for kind in ("added", "active"))
    assert load_experiment("classification/quickstart", added).model.offset_branch == "depthwise"
    said = message(load_experiment, "classification/quickstart", active)
    assert said.endswith("model.offset_branch is depthwise; model.deform_kind active predicts no offsets")


def test_a_config_built_in_python_is_checked_by_fit(tmp_path, monkeypatch):
    """dcnlab.fit refuses a wrong value with its key and makes no folder."""
    monkeypatch.chdir(tmp_path)
    config = Config(name="mine", trainer=TrainerConfig(max_steps=0))
    with pytest.raises(ConfigError, match=r"^trainer\.max_steps is 0; it must be "):
        fit(config)
    assert not list(tmp_path.iterdir())
