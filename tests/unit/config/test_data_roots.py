"""Variables that name the folders of the paper's data sets."""

import pytest

from dcnlab.config.data_roots import folder_of
from dcnlab.config.load import load_experiment
from dcnlab.config.path_checks import check_paths
from dcnlab.io.errors import ConfigError


def test_a_variables_name_stands_for_its_folder(tmp_path, monkeypatch):
    """The variable comes first, then the folder below DCNLAB_DATASETS; other paths stay as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DCNLAB_VOC", raising=False)
    monkeypatch.setenv("DCNLAB_DATASETS", str(tmp_path / "all"))
    assert folder_of("DCNLAB_VOC") == "DCNLAB_VOC"
    assert folder_of("VOC") == "VOC"
    (tmp_path / "all/VOCdevkit").mkdir(parents=True)
    assert folder_of("DCNLAB_VOC") == str(tmp_path / "all/VOCdevkit")
    monkeypatch.setenv("DCNLAB_VOC", "/mine")
    assert folder_of("DCNLAB_VOC") == "/mine"


def test_an_unset_variable_is_named_with_its_folder(tmp_path, monkeypatch):
    """The line says which variable to set, and which folder was looked for."""
    monkeypatch.chdir(tmp_path)
    for name in ("DCNLAB_VOC", "DCNLAB_DATASETS"):
        monkeypatch.delenv(name, raising=False)
    config = load_experiment("segmentation/deeplab_voc", ["data.root=DCNLAB_VOC", "model.backbone.weights=none"])
    says = "data.root is DCNLAB_VOC, which is not set, and there is no folder datasets/VOCdevkit; set DCNLAB_VOC or"
    with pytest.raises(ConfigError, match=says):
        check_paths(config)
