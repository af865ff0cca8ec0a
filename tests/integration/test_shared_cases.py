"""The published cases of ../shared/cases, each as its README says it should come out."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from command_line import dcnlab, python, start
from locations import SHARED
from processes import GUARD

CASES = SHARED / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not part of the project: ../shared is absent")


@pytest.fixture
def case(request, tmp_path, monkeypatch):
    """A copy of the test's case that can be written to, as the current folder."""
    folder = tmp_path / request.node.name.removeprefix("test_").partition("[")[0]
    shutil.copytree(CASES / folder.name, folder)
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "DCNLAB_", "SLURM_"))]:
        monkeypatch.delenv(name)
    return folder


def script(folder: Path) -> str:
    """What a case's run.py prints."""
    done = python(folder / "run.py")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def values(text: str) -> list[str]:
    """What stands behind the arrows of a script's lines."""
    return [line.split("->", 1)[1].strip() for line in text.splitlines() if "->" in line]


def test_compile_float32(case):
    """torch.compile of float32 layers gives one graph without a break, unlike torchvision's operators."""
    text = script(case)
    assert values(text) == ["one graph"] * 9
    assert "1 graphs, 0 breaks" in text


def test_forward_mode_zero(case):
    """Forward-mode derivatives of the operators are right; a missing rule would give zero silently."""
    text = script(case)
    assert re.findall(r"= (\S+)   \(right: 1\)", text) == ["1.000"] * 3
    assert "tangent is there" in text
    assert float(re.search(r"by the weight: (\S+)", text)[1]) > 1
    assert "derivatives differ by 0%" in text


def test_functorch_grad(case):
    """grad, jacrev, hessian, per-sample gradients, vmap and functional_call work, as for nn.Conv2d."""
    assert values(script(case)) == ["ok"] * 6


def test_view_after_operator(case):
    """.view after a layer works, since outputs of contiguous inputs are contiguous."""
    text = script(case)
    assert "raises" not in text
    assert "Error" not in text
    assert text.count("contiguous True") == 4


def test_trace_and_script(case):
    """torch.jit.trace of a layer with parameters can be checked and saved."""
    text = script(case)
    assert re.search(r"^trace, ours -> ok", text, re.MULTILINE)
    assert re.search(r"^trace without its check, then save, ours -> ok", text, re.MULTILINE)
    assert re.search(r"^trace under no_grad, then save, ours -> ok", text, re.MULTILINE)


def test_flops_uncounted(case):
    """torch's FlopCounterMode counts a deformable layer instead of giving zero."""
    text = script(case)
    assert int(re.search(r"deformable layer: (\d+)", text)[1]) >= 958464


def test_foreign_checkpoints(case):
    """Seven checkpoints of other libraries' naming load."""
    assert values(script(case)) == ["loaded"] * 7


def test_init_loop(case):
    """A user's loop that initializes every Conv2d leaves the offsets at zero."""
    assert re.findall(r": (True|False)$", script(case), re.MULTILINE) == ["True"] * 3


def test_onnx_half(case):
    """Float32 export runs in onnxruntime; half precision never fails without a message."""
    found = python("run.py")
    text = found.stdout + found.stderr
    assert "torch.float32 opset 19 -> runs" in text
    assert "without a word" not in text


def test_surgery_noise(case):
    """deform on a network whose forward pass fails prints no log of torch."""
    assert script(case) == "replaced: DeformConv2d\n"


def test_exif_upside_down(case):
    """A box lies on its object in a photo that EXIF says is upside down."""
    text = script(case)
    assert "box: [6, 37, 26, 57]" in text
    assert json.loads(re.search(r"upside_down box: .* lies at: (\[.*?\])", text)[1]) == [6, 37, 26, 57]


def test_voc_name_ends_in_number(case):
    """ "scan 1" and "scan -1" are image names in a VOC list, not marks of a class."""
    text = script(case)
    found = re.search(r"^train .* read: (.*)$", text, re.MULTILINE)[1]
    assert re.findall(r"scan -?\d\.jpg", found) == ["scan 1.jpg", "scan 2.jpg", "scan -1.jpg"]


def test_binary_masks(case):
    """Masks of 0 and 255: the class without a pixel is named, and the mean says what it covers."""
    words = ["data.name=imagelist", f"data.root={case / 'data'}", "data.classes=null", "data.batch_size=4"]
    words += ["trainer.max_steps=2", "optim.warmup=1", "trainer.accelerator=cpu", "id=binary"]
    done = dcnlab("fit", "segmentation/quickstart", *words)
    assert done.returncode == 0, done.stderr
    assert "'square' is in no label of data.train" in done.stderr
    assert "data.ignore" in done.stderr
    results = json.loads(Path(done.stdout.splitlines()[-1], "results.json").read_text())
    assert results["metrics_over"]["left_out"] == ["square"]
    scored = dcnlab("score", "segmentation", "--predictions", "predictions", "--labels", "labels", "--classes", 2)
    assert scored.returncode == 0
    assert "1 of 2 classes" in scored.stdout


def test_no_truth_in_test(case):
    """A COCO test file without boxes trains, writes detections and can be evaluated."""
    words = ["data.name=coco", f"data.root={case / 'data'}", "data.classes=null", "data.shorter_side=64"]
    words += ["data.longer_side=64", "data.batch_size=2", "trainer.max_steps=2", "trainer.accelerator=cpu", "id=nt"]
    done = dcnlab("fit", "detection/quickstart", *words)
    assert done.returncode == 0, done.stderr
    assert "data.test has no box" in done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert (folder / "detections.json").is_file()
    again = dcnlab("evaluate", folder)
    assert "data.test has no box" in again.stderr
    table = dcnlab("table", "detection/quickstart", "--runs", "runs")
    assert "nothing to find" in table.stdout + table.stderr or table.returncode == 2


def test_string_image_ids(case):
    """COCO files whose image ids are texts train and are scored."""
    words = ["data.name=coco", f"data.root={case / 'data'}", "data.classes=null", "data.shorter_side=64"]
    words += ["data.longer_side=64", "data.batch_size=2", "trainer.max_steps=1", "trainer.accelerator=cpu"]
    done = dcnlab("fit", "detection/quickstart", *words)
    assert done.returncode == 0, done.stderr
    annotations = case / "data" / "annotations" / "instances_test.json"
    scored = dcnlab(
        "score", "detection", "--detections", "detections.json", "--annotations", annotations, "--protocol", "coco"
    )
    assert scored.returncode == 0


def test_voc_segmentation_png(case):
    """VOC segmentation with PNG instead of JPEG images trains."""
    words = ["data.name=voc", f"data.root={case / 'data'}", "data.classes=[background,square]", "data.batch_size=1"]
    done = dcnlab("fit", "segmentation/quickstart", *words, "trainer.max_steps=1", "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr


QUICK = ("trainer.max_steps=1", "data.train_length=64", "data.test_length=40", "trainer.accelerator=cpu")
SRUN = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["data.batch_size=1", "data.image_size=32", "model.backbone.name=resnet18"], {}),
        (["data.batch_size=8", "id=x"], SRUN | {"SLURM_NTASKS": "2"}),
    ],  # the third case of the README, one task for two devices, starts both ranks now: see test_slurm.py
    ids=["batch norm on one value", "SLURM's tasks"],
)
def test_errors_of_libraries(case, words, environment):
    """Mistakes that Lightning or torch would report with a traceback are one line."""
    done = dcnlab("fit", "classification/quickstart", *QUICK, *words, **environment)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("dcnlab: ")


def test_train_longer(case):
    """A finished run is resumed with a larger max_steps, as Lightning users expect."""
    words = ["data.train_length=64", "data.test_length=40", "trainer.accelerator=cpu", "id=a"]
    assert dcnlab("fit", "classification/quickstart", "trainer.max_steps=2", *words).returncode == 0
    done = dcnlab("resume", "runs/quickstart/a", "trainer.max_steps=4")
    assert done.returncode == 0, done.stderr
    rows = (case / "runs/quickstart/a/metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[rows[0].split(",").index("step")]) for row in rows[1:]]
    assert max(steps) in (3, 4)
    assert json.loads((case / "runs/quickstart/a/results.json").read_text())["resumed"][0]["step"] == 2


def test_sweep_args_no_hyphens(case):
    """A trial started with wandb's ${args_no_hyphens} enters the sweep's table."""
    values = ["model.deform_layers=0", "model.dilation=None", "trainer.max_steps=2"]
    done = dcnlab(
        *("fit", "classification/quickstart", *values, "data.test_length=40", "data.train_length=64"),
        **{"WANDB_SWEEP_ID": "abc", "WANDB_MODE": "offline"},
    )
    assert done.returncode == 0, done.stderr
    table = dcnlab("table", "sweep.yaml", "--runs", "runs")
    assert table.returncode == 0, table.stderr
    parameters = json.loads(Path(done.stdout.splitlines()[-1], "results.json").read_text())["parameters"]
    assert parameters["model.deform_layers"] == 0
    assert parameters["model.dilation"] is None


def test_sweep_without_command(case):
    """A sweep file that leaves out `command` is refused, with a command that can be pasted."""
    done = dcnlab("sweep", "sweep.yaml", "--limit", "1", *QUICK)
    assert done.returncode == 2
    assert 'write command: ["${env}", dcnlab, fit, "${program}", "${args_json_file}"]' in done.stderr


def test_sweep_words_dropped(case):
    """torchrun is refused in one line; without it, project and entity reach the trials."""
    refused = dcnlab("sweep", "sweep.yaml", "trainer.accelerator=cpu", WANDB_MODE="offline")
    assert refused.returncode == 2
    assert refused.stderr.startswith("dcnlab: sweep.yaml: command: dcnlab sweep cannot run torchrun --nproc-per-node 2")
    file = case / "sweep.yaml"
    file.write_text(file.read_text().replace('torchrun, --nproc-per-node, "2", -m, ', ""))
    done = dcnlab("sweep", "sweep.yaml", "trainer.accelerator=cpu", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    config = next(case.glob("runs/**/config.yaml")).read_text()
    assert "project: my-own-project" in config
    assert "entity: my-team" in config


def test_hint_is_no_yaml(case):
    """The command that the error suggests can be pasted into the sweep file."""
    from omegaconf import OmegaConf

    refused = dcnlab("sweep", "sweep.yaml")
    assert refused.returncode == 2
    advice = re.search(r"needs quotes: (\[.*\])", refused.stderr)[1]
    lines = (case / "sweep.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("command:")]
    (case / "sweep.yaml").write_text("\n".join([*kept, f"command: {advice}"]))
    assert OmegaConf.load("sweep.yaml").method == "grid"
    assert dcnlab("sweep", "sweep.yaml", "--limit", "1", *QUICK).returncode == 0


def test_two_machines_hang(case):
    """Waiting for a second machine is announced and ends by SIGTERM."""
    words = ["trainer.num_nodes=2", *QUICK, "id=g2"]
    with start("fit", "classification/quickstart", *words, stdout=subprocess.DEVNULL) as process:
        try:
            for line in process.stderr:
                if "waiting for 1 of 2 machines" in line:
                    break
            else:
                pytest.fail("it ended without a word")
            process.send_signal(signal.SIGTERM)
            assert process.wait(GUARD) == 130
        finally:
            process.kill()
