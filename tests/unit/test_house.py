"""The rooms of the package: their list, and imports that run downward only."""

import importlib
import re
import subprocess
import sys

import house
import pytest
from locations import ROOT

import dcnlab


def test_packages_match_the_plan_and_imports_run_downward():
    """tools/house.py finds no fault in the package."""
    assert house.faults(house.modules()) == []


def test_dcnlab_ops_imports_no_other_package_of_ours():
    """The operators can be copied into another project."""
    known = house.modules()
    assert [pair for pair in house.arrows(known) if pair[0] == "ops"] == []


def test_the_top_of_the_package_holds_rooms_and_nothing_else():
    """No loose module at the top: at most 17 packages on 9 floors."""
    rooms = {name for floor in house.FLOORS for name in floor}
    names = {
        path.stem for path in (ROOT / "dcnlab").iterdir() if path.name not in ("__pycache__", "_files", "py.typed")
    }
    assert names == rooms | {"__init__"}
    assert len(rooms) <= 17
    assert len(house.FLOORS) <= 9


def test_an_upward_import_and_an_import_cycle_are_found(tmp_path, monkeypatch):
    """Control of tools/house.py on a small package with both faults."""
    package = tmp_path / "dcnlab"
    for name in sorted({name for floor in house.FLOORS for name in floor}):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text("")
    (package / "ops/one.py").write_text("def late():\n    from dcnlab.cli import two\n")
    (package / "cli/two.py").write_text("import dcnlab.ops.one\n")
    monkeypatch.setattr(house, "ROOT", tmp_path)
    assert house.faults(house.modules()) == [
        "dcnlab.ops.one imports dcnlab.cli.two, which is not below it",
        "a circle of imports: dcnlab.cli.two -> dcnlab.ops.one -> dcnlab.cli.two",
    ]


def test_files_named_in_the_architecture_page_exist():
    """Every path in docs/architecture.md is a file or folder of the package."""
    text = (ROOT / "docs/architecture.md").read_text()
    paths = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", text)) - {"dcnlab/"}
    assert len(paths) > 25
    assert sorted(path for path in paths - {"tools/house.py"} if not (ROOT / "dcnlab" / path).exists()) == []


def test_former_module_names_are_the_same_modules():
    """Old imports and pickles must give the same classes."""
    for former, module in dcnlab.MOVED.items():
        assert importlib.import_module(former) is importlib.import_module(module)
        assert sys.modules[module].__spec__.name == module


def test_the_package_is_imported_without_torch():
    """`import dcnlab` and its version take no second; fit, load and predict are imported when they are asked for."""
    code = "import dcnlab, sys; print(dcnlab.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.match(r"\d+\.\d+\S* False$", done.stdout.strip())
    assert {"fit", "load", "predict"} <= set(dir(dcnlab))
    with pytest.raises(AttributeError, match="module 'dcnlab' has no attribute 'fitt'"):
        dcnlab.fitt  # noqa: B018


def test_tables_are_imported_without_torch_and_numba():
    """`dcnlab table` reads numbers, so it needs not wait two seconds for torch."""
    code = "import dcnlab.ablations.tables.table, sys; print({'torch', 'numba', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_data_sets_keep_their_former_import_paths():
    """DetectionSplit and SegmentationSplit are still importable from their old packages."""
    from dcnlab.data.detection import DetectionSplit
    from dcnlab.data.segmentation import SegmentationSplit

    assert DetectionSplit.__module__ == "dcnlab.data.detection.split"
    assert SegmentationSplit.__module__ == "dcnlab.data.segmentation.split"
