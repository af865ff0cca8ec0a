"""Settings of many runs, of which those that differ in the seed alone are parsed once."""

from dataclasses import replace

import pytest

from dcnlab.config import identity, run_settings
from dcnlab.config.load import load_experiment, read_run, to_yaml
from dcnlab.config.run_settings import RunSettings
from dcnlab.io.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    """Writes the config of a run into a folder, and gives the folder."""

    def writer(number, **changes):
        config = load_experiment("classification/quickstart", [], {"model.deform_layers": number % 2, "seed": number})
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(to_yaml(replace(config, id=f"run{number}", **changes)))
        return folder

    return writer


def test_runs_of_several_seeds_are_parsed_once(write, monkeypatch):
    """Eight runs of two settings have the settings that reading each gives, by two calls of `read_run`."""
    folders = [write(number) for number in range(1, 9)]
    expected = [identity.settings(read_run(folder)) for folder in folders]
    calls = []
    monkeypatch.setattr(run_settings, "read_run", lambda folder: calls.append(folder) or read_run(folder))
    settings = RunSettings()
    assert [settings.of(folder) for folder in folders] == expected
    assert len(calls) == 2


def test_a_text_of_another_form_is_read_in_full(write):
    """References between keys, a seed that is no number, and a missing file take no short cut."""
    settings = RunSettings()
    folder = write(0)
    settings.of(folder)
    path = folder / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("project: null", "project: ${name}"))
    assert settings.of(folder)["seed"] == 0
    path.write_text(text.replace("seed: 0", "seed: many"))
    with pytest.raises(ConfigError, match="seed is 'many'"):
        settings.of(folder)
    path.unlink()
    with pytest.raises(ConfigError, match="is not a run folder"):
        settings.of(folder)
