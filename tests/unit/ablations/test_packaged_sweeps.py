"""Every sweep file of the project: wandb takes it, its trials build their networks, it asks what the paper asked."""

import copy
import dataclasses
import functools
import json
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml

from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.sweeps.trial import trials_of
from dcnlab.config import identity, packaged
from dcnlab.config.keys import all_keys
from dcnlab.config.load import load_experiment
from dcnlab.models import backbone
from dcnlab.nn import conv_layers
from dcnlab.training.build_network import task_module

NAMES = packaged.names("sweeps")
SCHEMA = json.loads(Path(__file__).with_name("wandb_sweep_schema.json").read_text())
PUBLISHED = yaml.safe_load((packaged.PACKAGE / "ablations/tables/published.yaml").read_text())
SYSTEMS = {
    "deeplab_voc": "deeplab_voc",
    "deeplab_cityscapes": "deeplab_cityscapes",
    "class_aware_rpn_voc": "class_aware_rpn",
    "faster_rcnn_voc": "faster_rcnn",
    "rfcn_voc": "rfcn",
}
"""A sweep's system, and its name in the published tables."""
PAIRS = [
    name.removeprefix("table1_")
    for name in NAMES
    if name.startswith("table1_") and name.replace("table1_", "table3_", 1) in NAMES
]


def words(sweep):
    """Overrides with which a sweep needs no files; the embedded digits take no folder."""
    digits = load_experiment(sweep.program, default_root="somewhere").data.name == "digits"
    return [*([] if digits else ["data.root=somewhere"]), "model.backbone.weights=none"]


@functools.cache
def of_one_seed(name):
    """A sweep's trials of its first seed: each of its settings once, as seeds alter no other setting."""
    sweep = sweep_file.read(name)
    one = {"seed": {"distribution": "constant", "value": seeds(name)[0]}} if seeds(name) else {}
    sweep = dataclasses.replace(sweep, parameters={**sweep.parameters, **one})
    return trials_of(sweep, words(sweep))


def seeds(name):
    """Seeds of a sweep, in its order; none where it sweeps no seed."""
    return sweep_file.read(name).parameters.get("seed", {}).get("values", [])


def points(name):
    """Layers, dilation and pooling of a sweep's trials, and its seeds."""
    models = [trial.config.model for trial in of_one_seed(name)]
    return {(model.deform_layers, model.dilation, model.deform_pooling) for model in models}, seeds(name)


def test_every_packaged_sweep_is_valid_and_builds(monkeypatch):
    """Each file fits wandb's JSON schema; all trials have different ids and networks that build."""
    made = functools.cache(backbone.residual_network)
    monkeypatch.setattr(backbone, "residual_network", lambda *arguments: copy.deepcopy(made(*arguments)))
    order, orders = conv_layers._forward_order, {}

    def order_once(model, convs, example):
        """The order of a model's layers: models of the same layers have the same order, and a trial pass takes long."""
        layers = repr(model)
        if layers not in orders:
            orders[layers] = order(model, convs, example)
        return orders[layers]

    monkeypatch.setattr(conv_layers, "_forward_order", order_once)
    for name in dir(torch.nn.init):
        if name.endswith("_") and not name.startswith("_"):  # slow on the meta device, whose tensors have no values
            monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    built = set()
    for name in NAMES:
        jsonschema.validate(yaml.safe_load((packaged.folder("sweeps") / f"{name}.yaml").read_text()), SCHEMA)
        # An arm states settings of several sections, which are checked as each trial's config is made.
        assert set(sweep_file.read(name).parameters) - {"arm"} <= set(all_keys()), name
        found = of_one_seed(name)
        assert len({trial.id for trial in found}) == len(found) > 0, name
        for trial in found:
            leaves = identity.settings(trial.config)
            network = json.dumps([trial.config.task, {key: leaves[key] for key in leaves if key.startswith("model.")}])
            if network not in built:
                with torch.device("meta"):
                    task_module(trial.config, [str(number) for number in range(20)])
            built.add(network)


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_opens_with_its_own_command(name):
    lines = (packaged.folder("sweeps") / f"{name}.yaml").read_text().splitlines()
    head = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    assert lines[0].startswith("# ")
    assert f"dcnlab sweep {name}" in head
    assert yaml.safe_load("\n".join(lines))["name"] == name


@pytest.mark.parametrize("system", SYSTEMS)
def test_tables_1_and_3_have_the_papers_rows(system):
    """Layers, dilations and modules of each sweep are those of the transcribed tables."""
    rows = [row for row in PUBLISHED["table1"]["rows"] if SYSTEMS[system] in row]
    assert points(f"table1_{system}") == ({(row["layers"], 2, False) for row in rows}, [0, 1, 2])

    modules = {
        "deformable convolution": (3, 2, False),
        "deformable RoI pooling": (0, 2, True),
        "deformable convolution & RoI pooling": (3, 2, True),
    }
    rows = [row for row in PUBLISHED["table3"]["rows"] if SYSTEMS[system] in row]
    wanted = {(0, row["dilation"], False) if "dilation" in row else modules[row["name"]] for row in rows}
    assert points(f"table3_{system}") == (wanted, [0, 1, 2])


@pytest.mark.parametrize("system", ["faster_rcnn_voc", "rfcn_voc"])
def test_table_3_has_plain_rows_under_both_poolings(system):
    """The rows that deformable pooling is compared with are pooled by means, and as the authors do."""
    models = [trial.config.model for trial in of_one_seed(f"table3_{system}")]
    found = {(model.deform_layers, model.dilation, model.deform_pooling, model.plain_pooling) for model in models}
    assert {(0, 2, False, "mean"), (3, 2, False, "mean"), (0, 2, True, "mean"), (3, 2, True, "mean")} < found
    assert {row for row in found if row[3] == "authors"} == {(0, 2, False, "authors"), (3, 2, False, "authors")}
    assert len(models) == 9


def test_table5_sweeps_cover_the_papers_networks():
    """Every system and backbone of table 5 is swept plain and deformable on COCO, 240k steps."""
    found = set()
    for name in NAMES:
        if name.startswith("table5_"):
            for trial in of_one_seed(name):
                model = trial.config.model
                assert (trial.config.data.name, trial.config.trainer.max_steps) == ("coco", 240_000)
                assert model.deform_pooling == (model.deform_layers > 0 and model.name != "class_aware_rpn")
                found.add((model.name, model.backbone.name, model.deform_layers))
    wanted = {(row["model"], row["backbone"]) for row in PUBLISHED["table5"]["rows"]}
    last_three = {"resnet101": 3, "aligned_inception_resnet": 9}  # in ResNet they are all the 3x3 ones of res5
    assert found == {(*pair, layers) for pair in wanted for layers in (0, last_three[pair[1]])}


@pytest.mark.parametrize("system", PAIRS)
def test_table1_and_table3_share_their_equal_trials(system):
    """Trials of equal settings have the same id in both sweeps, so each is trained once."""
    sweeps = f"table1_{system}", f"table3_{system}"
    of_layers, of_dilation = map(of_one_seed, sweeps)
    shared = {trial.id for trial in of_layers} & {trial.id for trial in of_dilation}
    asked = [(trial.config.model.deform_layers, trial.config.seed) for trial in of_layers if trial.id in shared]
    assert asked == [(0, 0), (3, 0)]
    assert [seeds(name) for name in sweeps] == [[0, 1, 2]] * 2


def test_small_and_gpu_sweeps_exist_for_all_three_tasks():
    """Tables 1 and 3 can be swept on embedded digits and on data for one GPU."""
    assert {"classification_small", "segmentation_small", "detection_small"} < set(PAIRS)
    assert {"resnet50_flowers12", "deeplab_camvid", "rfcn_cards"} < set(PAIRS)
