"""Sweep files mean what they mean to wandb; a wrong one is refused before anything starts."""

import json
import re
from pathlib import Path

import pytest
import yaml

from dcnlab.ablations.sweeps import distributions, sweep_command, sweep_file
from dcnlab.ablations.sweeps import run as sweeps
from dcnlab.ablations.sweeps.trial import trials_of
from dcnlab.config import experiment, identity
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError

SCHEMA = json.loads(Path(__file__).with_name("wandb_sweep_schema.json").read_text())

EXPERIMENT = "trainer: {max_steps: 2}\n"
SWEEP = {
    "program": "one.yaml",
    "command": ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"],
    "method": "grid",
    "parameters": {"model.deform_layers": {"values": [0, 1]}, "seed": {"values": [0, 1, 2]}},
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a sweep file with some keys changed and gives its path."""
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(EXPERIMENT)

    def written(**changes):
        tree = {key: value for key, value in {**SWEEP, **changes}.items() if value is not None}
        Path("ablation.yaml").write_text(yaml.safe_dump(tree))
        return "ablation.yaml"

    return written


def all_trials(path, overrides=(), limit=None):
    return trials_of(sweep_file.read(path), overrides, limit)


def test_quickstart_is_four_layer_counts_by_ten_seeds():
    settings = {(t.config.model.deform_layers, t.config.seed) for t in all_trials("quickstart")}
    assert settings == {(layers, seed) for layers in range(4) for seed in range(10)}


def test_our_sweep_keys_equal_wandbs_schema():
    """Keys and distributions are compared with the JSON schema that wandb ships."""
    assert set(sweep_file.KEYS) == set(SCHEMA["properties"])
    assert set(sweep_file.METRIC_KEYS) == set(SCHEMA["definitions"]["metric"]["properties"])
    known = {}
    definitions = SCHEMA["definitions"].values()
    for form in [alternative for definition in definitions for alternative in definition.get("anyOf", [definition])]:
        properties = form.get("properties", {})
        for name in properties.get("distribution", {}).get("enum", []):
            known[name] = set(form.get("required", [])) - {"distribution"}, set(properties) - {"distribution"}
    ours = {
        name: (set(needed), {*needed, *optional}) for name, (needed, optional) in distributions.DISTRIBUTIONS.items()
    }
    assert ours == known


def test_nested_and_dotted_parameters_are_the_same_trials(write):
    """wandb allows both forms; the trials' ids must not depend on it."""
    dotted = all_trials(write())
    nested = {"model": {"parameters": {"deform_layers": {"values": [0, 1]}}}, "seed": {"values": [0, 1, 2]}}
    assert [trial.id for trial in all_trials(write(parameters=nested))] == [trial.id for trial in dotted]


def test_trials_of_a_sweep_read_its_experiment_once(write, monkeypatch):
    """Four trials parse one file, and no trial's values show in another."""
    reads = []
    chain = experiment.extends_chain
    monkeypatch.setattr(experiment, "extends_chain", lambda path: reads.append(path) or chain(path))
    trials = all_trials(write(parameters={"seed": {"values": [1, 2]}, "data.train_length": {"values": [8, 9]}}))
    points = [(trial.config.seed, trial.config.data.train_length) for trial in trials]
    assert sorted(points) == [(1, 8), (1, 9), (2, 8), (2, 9)]
    assert trials[0].config.sweep == {"seed": 1, "data.train_length": 8}
    assert len(reads) == 1


def test_a_trials_id_depends_only_on_what_it_computes(write):
    """Output folder and threads do not change it; a learning rate does, wherever it is set."""
    path = write()
    first = all_trials(path)[0]
    assert all_trials(path, ["out=elsewhere", "trainer.threads=1", "trainer.progress=false"])[0].id == first.id
    assert all_trials(path, ["optim.lr=0.5"])[0].id != first.id
    Path("one.yaml").write_text(EXPERIMENT + "optim: {lr: 0.5}\n")
    assert all_trials(path)[0].id != first.id


def test_an_override_replaces_the_swept_values(write):
    """seed=7 leaves one trial for each value of the other parameter."""
    trials = all_trials(write(), ["seed=7"])
    assert [trial.parameters for trial in trials] == [
        {"model.deform_layers": 0, "seed": 7},
        {"model.deform_layers": 1, "seed": 7},
    ]
    assert all(trial.config.sweep == trial.parameters and trial.config.seed == 7 for trial in trials)


def test_mapping_values_become_their_keys(write):
    """A value that sets two keys gives a trial with both parameters."""
    path = write(parameters={"model": {"values": [{"deform_layers": 1, "modulated": True}, {"deform_layers": 2}]}})
    assert [trial.parameters for trial in all_trials(path)] == [
        {"model.deform_layers": 1, "model.modulated": True},
        {"model.deform_layers": 2},
    ]


def test_a_new_config_key_at_its_default_keeps_trial_ids(write, monkeypatch):
    """Otherwise each new option of dcnlab would orphan all finished runs."""
    path = write()
    before = [trial.id for trial in all_trials(path)]
    settings = identity.settings
    monkeypatch.setattr(identity, "settings", lambda config: {**settings(config), "optim.nesterov": False})
    monkeypatch.setattr(identity, "_defaults", lambda: identity.settings(Config()))
    assert [trial.id for trial in all_trials(path)] == before


def test_run_cap_limits_grid_and_random_search(write):
    """run_cap=2 of a grid of six and run_cap=3 of a random search."""
    assert len(all_trials(write(run_cap=2))) == 2
    space = {"optim.lr": {"min": 0.1, "max": 1.0}}
    assert len(all_trials(write(method="random", run_cap=3, parameters=space))) == 3


def test_a_longer_random_search_keeps_the_trials_it_had(write):
    """The first trials of a random search do not depend on its length."""
    space = {"optim.lr": {"min": 0.1, "max": 1.0}}
    short = all_trials(write(method="random", run_cap=2, parameters=space))
    longer = all_trials(write(method="random", run_cap=4, parameters=space))
    assert [trial.id for trial in longer[:2]] == [trial.id for trial in short]


def test_overrides_in_the_command_hold_for_every_trial(write):
    """KEY=VALUE words after fit in the sweep's command reach each trial's config."""
    trials = all_trials(write(command=[*SWEEP["command"], "optim.lr=0.5", "name=other"]))
    assert {trial.config.optim.lr for trial in trials} == {0.5}
    assert {trial.config.name for trial in trials} == {"other"}


def test_the_command_may_name_the_experiment(write):
    """Without program, the word after fit is the experiment."""
    assert len(all_trials(write(program=None, command=["dcnlab", "fit", "one.yaml", "${args_json_file}"]))) == 6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"paramters": {}}, "no such key paramters; nearest: parameters"),
        ({"metric": {"nmae": "top1"}}, "no such key metric.nmae; nearest: metric.name"),
        ({"metric": {"name": "top1", "goal": "maximise"}}, "metric.goal is 'maximise'; nearest: maximize"),
        ({"metric": {"name": ["a"]}}, "metric.name is ['a']; it must be the name of one metric"),
        ({"method": None}, "method is missing; choose from: grid, random"),
        ({"method": "grd"}, "method is 'grd'; nearest: grid"),
        ({"method": "bayes"}, "method is 'bayes', which needs wandb's server"),
        ({"method": "random"}, "random search never ends; state run_cap, or --limit"),
        ({"parameters": None}, "parameters is missing; it must be a mapping"),
        ({"parameters": {"seed": {"vlaues": [1]}}}, "no such key parameters.seed.vlaues; nearest: values"),
        ({"parameters": {"model": {"parameters": {"x": 3}}}}, "parameters.model.x is 3; it must be a mapping"),
        (
            {"parameters": {"model.deform_layer": {"values": [1]}}},
            "no such key model.deform_layer; nearest: model.deform_",
        ),
        ({"parameters": {"model.deform_layers": {"values": [0, -1]}}}, "trial model.deform_layers=-1"),
        ({"parameters": {"optim.lr": {"min": 0.1, "max": 1.0}}}, "a grid takes value, values"),
        ({"run_cap": 0}, "run_cap is 0; it must be a whole number above 0"),
        ({"program": None}, "program is missing"),
        ({"program": "on.yaml"}, "no such file: on.yaml; nearest: one.yaml"),
        (
            {"command": ["python", "train.py", "${args_no_equals}"]},
            '${args_no_equals} is not an argument of dcnlab fit; write command: ["${env}", dcnlab, fit',
        ),
        ({"command": ["python", "train.py", "${args_json_file}"]}, "command must call dcnlab fit"),
        ({"command": ["dcnlab", "fit", "${program}"]}, "command must call dcnlab fit with the sweep's parameters"),
        ({"command": "dcnlab fit"}, "command is 'dcnlab fit'; it must be a list"),
    ],
)
def test_a_wrong_sweep_file_is_refused_in_one_line(write, changes, says):
    """A wrong key, value or method of a sweep file names the nearest right one in one line."""
    path = write(**changes)
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        all_trials(path)
    assert "ablation.yaml: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_early_terminate_without_wandbs_server_is_noted(write):
    """A note says that it has no effect, instead of dropping it silently."""
    sweep = sweep_file.read(write(early_terminate={"type": "hyperband", "min_iter": 3}))
    assert sweep.notes == ("ablation.yaml: early_terminate has no effect without wandb's server",)


@pytest.mark.parametrize("wrong", ["[${env}, dcnlab, fit, ${program}, ${args_json_file}]", "dcnlab fit", "[dcnlab]"])
def test_the_command_an_error_suggests_is_valid_yaml(write, wrong):
    """It parses, and the sweep file with it is accepted."""
    path = Path(write(command=None))
    text = path.read_text()
    path.write_text(f"{text}command: {wrong}\n")
    with pytest.raises(ConfigError) as caught:
        sweep_file.read("ablation.yaml")
    [advice] = re.findall(r"\[[^\[\]]*args_json_file[^\[\]]*\]$", str(caught.value))
    assert yaml.safe_load(advice) == SWEEP["command"]
    path.write_text(f"{text}command: {advice}\n")
    assert len(all_trials("ablation.yaml")) == 6
    assert sweep_file.read("ablation.yaml").notes == ()


def test_a_sweep_file_without_a_command_is_refused(write):
    """wandb's agent would call plain Python; the command that the error suggests can be pasted."""
    with pytest.raises(ConfigError) as caught:
        sweep_file.read(write(command=None))
    text = str(caught.value)
    assert "wandb's agent would run `/usr/bin/env python one.yaml --NAME=VALUE`; write command: [" in text
    assert yaml.safe_load(text.partition("write ")[2]) == {"command": SWEEP["command"]}


def test_project_and_entity_reach_the_trials_but_not_their_ids(write):
    """They set the trials' logger; the ids stay, as they compute the same."""
    path = write(project="mine", entity="my-team")
    loggers = {(trial.config.logger.project, trial.config.logger.entity) for trial in all_trials(path)}
    assert loggers == {("mine", "my-team")}
    assert all_trials(path, ["logger.project=other"])[0].config.logger.project == "other"
    assert [trial.id for trial in all_trials(path)] == [trial.id for trial in all_trials(write())]
    with pytest.raises(ConfigError, match=r"ablation.yaml: project is \['mine'\]; it must be text"):
        all_trials(write(project=["mine"]))


@pytest.mark.parametrize(
    ("before", "refused"),
    [
        (["${env}"], None),
        (["/usr/bin/env", "python3.11", "-m"], None),
        (["${interpreter}", "-m"], None),
        (["${env}", "DCNLAB_FUSED=never"], None),
        (["torchrun", "--nproc-per-node", "2", "-m"], "torchrun --nproc-per-node 2"),
        (["srun", "--kill-on-bad-exit=1", "--ntasks-per-node=8"], "srun --kill-on-bad-exit=1 --ntasks-per-node=8"),
        (["python", "-u", "-m"], "-u"),
    ],
)
def test_words_before_fit_are_followed_or_refused(write, before, refused):
    """Environment variables are set; launchers such as torchrun are refused, but the file's table can be made."""
    path = write(command=[*before, "dcnlab", "fit", "${program}", "${args_json_file}"])
    sweep = sweep_file.read(path)
    assert sweep.environment == ((("DCNLAB_FUSED", "never"),) if "DCNLAB_FUSED=never" in before else ())
    if refused is None:
        sweep_command.check_runnable(sweep.before)
        return
    says = rf"\Aablation.yaml: command: dcnlab sweep cannot run {re.escape(refused)} before dcnlab fit, .*devices"
    with pytest.raises(ConfigError, match=says):
        sweeps.run(path)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("changes", "limit", "says"),
    [
        ({"parameters": {"seed": {"min": 0, "max": 10**12}}}, None, "its grid has 1000000000001 trials"),
        (
            {"parameters": {f"p{n}": {"values": list(range(20))} for n in range(8)}},
            None,
            "its grid has 25600000000 trials",
        ),
        ({"method": "random", "run_cap": 10**9}, None, "run_cap or --limit asks for 1000000000 trials"),
        ({"method": "random"}, 10**9, "run_cap or --limit asks for 1000000000 trials"),
    ],
)
def test_more_than_10000_trials_are_refused_at_once(write, changes, limit, says):
    """Huge grids and run_caps are refused by their count, before any trial is built."""
    path = write(**changes)
    with pytest.raises(ConfigError, match=rf"\Aablation\.yaml: {says}; allowed are 10000; run_cap states fewer\Z"):
        all_trials(path, limit=limit)


def test_run_cap_takes_the_first_points_of_a_huge_grid(write):
    """A grid of 2**33 points with run_cap 3 gives its first three trials."""
    path = write(
        parameters={"model.deform_layers": {"values": [1, 0]}, "seed": {"min": 7, "max": 2**32 - 1}}, run_cap=3
    )
    assert [trial.parameters for trial in all_trials(path)] == [
        {"model.deform_layers": 1, "seed": seed} for seed in (7, 8, 9)
    ]


@pytest.mark.parametrize("macro", ["${args_json_file}", "${args_no_hyphens}", "${args}"])
def test_macros_of_the_environment_are_wandbs(write, monkeypatch, macro):
    """`${envvar:NAME}` becomes the variable's value, or its name; wandb's own code says the same."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command

    monkeypatch.setenv("DCNLAB_VOC", "/voc")
    monkeypatch.delenv("DCNLAB_COCO", raising=False)
    words = ["name=${envvar:DCNLAB_COCO}", "data.root=${envvar:DCNLAB_VOC}/2012"]
    sweep = sweep_file.read(write(command=["dcnlab", "fit", "${program}", macro, *words]))
    assert list(sweep.overrides) == create_sweep_command(words) == ["name=DCNLAB_COCO", "data.root=/voc/2012"]
