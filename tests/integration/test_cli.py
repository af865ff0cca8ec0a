"""What the user can mend is one line and exit status 2; the command line starts at once."""

import json
import re
import subprocess
import sys
from pathlib import Path

import own_folders
import pytest
import yaml
from command_line import dcnlab, dcnlab_anew, environment, python
from locations import ROOT

from dcnlab import __version__

SWEEP = """
program: tiny.yaml
command: ["${env}", dcnlab, fit, "${program}", "${args_json_file}"]
method: grid
parameters: {seed: {values: [0]}}
"""


@pytest.fixture
def files(tiny):
    """A folder with the files that the wrong commands below speak of."""
    Path("sweep.yaml").write_text(SWEEP)
    Path("misspelt.yaml").write_text(SWEEP.replace("method", "metod"))
    Path("broken.yaml").write_text("model: [1\n")
    Path("flowers").mkdir()
    Path("args.json").write_text('{"model.deform_layer": 1}')


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("fit tiny.yaml model.deform_layer=3", "no such key model.deform_layer; nearest: model.deform_layers"),
        ("fit tiny.yaml model.deform_layers=three", "model.deform_layers is 'three'; it must be a whole number"),
        ("fit tiny.yaml args.json", "args.json: no such key model.deform_layer; nearest: model.deform_layers"),
        ("fit tny.yaml", "no such file: tny.yaml; nearest: tiny.yaml"),
        ("fit broken.yaml", "broken.yaml: not YAML"),
        (
            "fit tiny.yaml data.name=imagefolder data.root=flower",
            "data.root is 'flower', and there is no such folder; nea",
        ),
        ("fit tiny.yaml deform", "deform: no such file; after the experiment come key=value"),
        ("sweep misspelt.yaml", "misspelt.yaml: no such key metod; nearest: method"),
        ("sweep swep.yaml", "no such file: swep.yaml; nearest: sweep.yaml"),
        ("sweep sweep.yaml data.rot=x", "no such key data.rot; nearest: data.root"),
        ("sweep sweep.yaml --jobs none", "Invalid value for '--jobs'"),
        ("sweep sweep.yaml --job 2", "No such option: --job"),
        ("table sweep.yaml --runs nowhere", "--runs nowhere: no such folder"),
        ("table sweep.yaml --format html", "--format is 'html'; choose from: rich, markdown, latex, csv, json"),
        ("evaluate runs/x", "no such run: runs/x"),
        ("resume .", ". is not a run folder: it has no config.yaml"),
        ("data preview --split tst", "--split is 'tst'; nearest: test"),
        ("data preview --out runs.txt", "--out is runs.txt; it must be a file that ends in .png, such as runs.png"),
        ("data preview --out .", "--out is .; it must be a file that ends in .png, such as preview.png"),
        ("data preview detection/own", "data.root is null; data.name own needs the folder"),
        ("data preview detection/quickstart --task detection", "the experiment detection/quickstart states the task"),
        ("fit classification/quickstart data.layout=voc", "data.layout is 'voc'; data.name digits has none, own does"),
        ("fit detection/own data.root=. data.layout=yol", "data.layout is 'yol'; nearest: yolo"),
        ("fit", "Missing argument 'EXPERIMENT.yaml'"),
        ("swep", "No such command 'swep'; nearest: sweep"),
        (
            "list experimnts",
            "WHAT is 'experimnts'; nearest: experiments; choose from: experiments, sweeps, models, data",
        ),
        ("completion bsh", "SHELL is 'bsh'; nearest: bash; choose from: bash, zsh, fish"),
        ("data previw", "No such command 'previw'; nearest: preview"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_two(files, command, says):
    """No traceback, nothing on stdout, and no run folder is made."""
    done = dcnlab(*command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dcnlab: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not Path("runs").exists()


def test_a_value_that_fails_in_building_is_one_line_too(files):
    """A layer count that only the network can refuse gives exit status 2 and no run folder."""
    done = dcnlab("fit", "tiny.yaml", "model.deform_layers=99", "model.deform_kernel_size=5")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"dcnlab: .*99.*\n", done.stderr)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("fit tiny.yaml logger.wandb=false out=/proc/x", "/proc/x"),
        ("fit tiny.yaml logger.wandb=false out=tiny.yaml", "tiny.yaml"),
        ("sweep sweep.yaml --out /proc/x", "/proc/x"),
        ("sweep sweep.yaml --out tiny.yaml", "tiny.yaml"),
        ("sweep sweep.yaml --out=", "out is ''; it must be the folder where run folders are made"),
        ("data preview --rows 1 --columns 1 --out /proc/x.png", "/proc/x.png: No such file or directory"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_line(files, command, says):
    done = dcnlab(*command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"dcnlab: .*{re.escape(says)}.*\n", done.stderr), done.stderr


def test_table_reads_a_folder_with_an_equals_sign(files):
    """lr=1 is an existing folder here, so it is not taken for an override."""
    Path("lr=1").mkdir()
    done = dcnlab("table", "sweep.yaml", "lr=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dcnlab: no run of sweep.yaml found")


def test_help_is_quick_and_names_every_command():
    """It loads no heavy package: torch alone would take seconds."""
    heavy = "torch torchvision pytorch_lightning numpy numba cupy pandas matplotlib scipy wandb".split()
    code = (
        "import atexit, json, sys, time; from dcnlab.cli import main as cli\n"
        f"loaded = lambda: [name for name in {heavy} if name in sys.modules]\n"
        "atexit.register(lambda: print(json.dumps([loaded(), time.process_time()]), file=sys.stderr))\n"
        "sys.argv = ['dcnlab', '--help']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert "Usage" in done.stdout
    for command in ("fit", "evaluate", "resume", "sweep", "table", "doctor", "data"):
        assert re.search(rf"\b{command}\b", done.stdout), command
    loaded, seconds = json.loads(done.stderr)
    assert loaded == []
    assert seconds < 5  # of the processor, on a slow machine; it takes a third of a second


def test_version_is_that_of_the_package_and_of_the_citation():
    """`--version`, `dcnlab.__version__` and CITATION.cff state one version."""
    done = dcnlab_anew("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dcnlab {__version__}\n", "")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_an_internal_error_keeps_its_traceback(tiny):
    """Only ConfigError and DataError are one line; a ZeroDivisionError of ours shows where it is."""
    code = (
        "from dcnlab.cli import main as cli\nfrom dcnlab.config import load\n"
        "load.load_experiment = lambda *a, **options: 1 / 0\n"
        "import sys; sys.argv = ['dcnlab', 'fit', 'tiny.yaml']\n"
        "cli.main()"
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_evaluate_prints_the_scores_that_the_run_printed(tiny):
    assert dcnlab("fit", tiny, "id=one", "logger.wandb=false").returncode == 0
    done = dcnlab("evaluate", "runs/tiny/one", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(Path("runs/tiny/one/results.json").read_text())["metrics"]


def test_preview_writes_a_picture_for_every_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in ("classification", "detection", "segmentation"):
        done = dcnlab("data", "preview", "--task", task, "--out", f"{task}.png", "--rows", 1, "--columns", 2)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{task}.png\n", "")
        assert Path(f"{task}.png").read_bytes().startswith(b"\x89PNG")


def test_an_experiment_is_previewed_before_any_training(tmp_path, monkeypatch):
    """One line on stderr says what the folder holds; the picture is written, and no run folder."""
    monkeypatch.chdir(own_folders.voc(tmp_path))
    done = dcnlab("data", "preview", "detection/own", "data.root=.", "--out", "boxes.png", "--rows", 1)
    assert (done.returncode, done.stdout) == (0, "boxes.png\n"), done.stderr
    assert "boxes in VOC's XML; 2 classes: box, ball; images: train 14, val 2, test 4" in done.stderr
    assert Path("boxes.png").read_bytes().startswith(b"\x89PNG")
    assert not Path("runs").exists()


def test_doctor_lists_what_works_and_what_is_missing():
    """Each operator is compared with the reference on the CPU; a missing GPU is not a failure."""
    done = python("-P", "-m", "dcnlab", "doctor", CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "FAILED" not in done.stdout
    for line in (
        r"ok     torch 2\.",
        r"--     no GPU",
        *(
            rf"ok     {name}, cpu, forward and backward: equals the reference to \de[-+]\d\d"
            for name in ("deform_conv2d", "deform_ps_roi_pool", "deform_roi_pool", "ms_deform_attn")
        ),
        *(
            rf"ok     {name}\.cu: .* for sm_90|--     none compiled: "
            for name in ("deform_conv2d", "deform_ps_roi_pool", "deform_roi_pool", "ms_deform_attn")
        ),
        r"ok     digits \(embedded\): 7000 train, 1000 val, 2000 test",
        *(rf"--     {name}: " for name in ("imagefolder", "voc", "coco", "yolo", "cityscapes", "camvid", "imagelist")),
        r"ok     sweeps: .*quickstart",
        r"ok     mode: offline",
    ):
        assert re.search(line, done.stdout), line


def test_doctor_exits_with_1_on_a_broken_operator(monkeypatch, capsys):
    """The operator's message is shown in one line."""
    from dcnlab.cli import doctor, doctor_gpu

    def broken(name, device, dtype):
        raise RuntimeError("differs\nbadly")

    monkeypatch.setattr(doctor_gpu, "_operator", broken)
    monkeypatch.setattr(doctor, "_CHECKS", (("operators", doctor_gpu.operators),))
    assert doctor.run() == 1
    assert "FAILED deform_conv2d, cpu, forward and backward: RuntimeError: differs badly" in capsys.readouterr().out
