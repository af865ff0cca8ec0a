"""No file that is read runs code, leaves its folder, eats the memory or carries a secret into a run."""

import ast
import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import dcnlab, python
from locations import ROOT

from dcnlab.config.load import load_experiment, load_run
from dcnlab.config.overrides import parse_override
from dcnlab.data.classification.image_folder import ImageFolderSplit
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.labels import read_label
from dcnlab.data.segmentation.voc import read_voc_label
from dcnlab.io import image_file, json_file, torch_file, yaml_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.yaml_file import read_yaml
from dcnlab.models import weights_file
from dcnlab.training import checkpoint_file, export
from dcnlab.training.parts import build
from dcnlab.training.run import evaluate, fit, resume
from dcnlab.training.run_folder import RunFolder
from dcnlab.training.scores import score_test_split

SOURCES = sorted((ROOT / "dcnlab").rglob("*.py"))


def calls(tree):
    """Every call of a module, by the text of what is called, with its keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}, node.lineno


def test_no_module_can_execute_what_it_reads():
    """No eval, exec, pickle or unsafe YAML loader is called anywhere in the sources."""
    forbidden = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
    modules = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib", "cloudpickle"}
    harmless = {"UnpicklingError"}
    wrong = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for name, keywords, line in calls(tree):
            where = f"{path.relative_to(ROOT)}:{line} {name}"
            safe = {"torch.load": "True", "torch.hub.load_state_dict_from_url": "True"}
            if name in forbidden or keywords.get("shell") == "True" or keywords.get("allow_pickle") == "True":
                wrong.append(where)
            if name in safe and keywords.get("weights_only") != "True":
                wrong.append(where)
            if name.endswith("get_state_dict") and keywords.get("weights_only") != "True":
                wrong.append(where)
            if name == "np.load" and keywords.get("allow_pickle") != "False":
                wrong.append(where)
            # Lightning reads a checkpoint in these, by pickle unless it is told not to.
            if "ckpt_path" in keywords and keywords.get("weights_only") != "True":
                wrong.append(where)
            if name.endswith("load_from_checkpoint"):
                wrong.append(where)
        for node in ast.walk(tree):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import | ast.ImportFrom) else set()
            source = {node.module} if isinstance(node, ast.ImportFrom) else names
            if source & modules and not names <= harmless:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} import {sorted(names)}")
    assert wrong == []
    assert sum(name == "torch.load" for path in SOURCES for name, _, _ in calls(ast.parse(path.read_text()))) >= 1


class Touch:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, call, *arguments):
        self.made = (call, arguments)

    def __reduce__(self):
        return self.made


def spiteful(trap):
    """Objects that would make the file `trap`, each by another door."""
    return {
        "os.system": Touch(os.system, f"touch {trap}"),
        "eval": Touch(eval, f"open({str(trap)!r}, 'w').close()"),
        "exec": Touch(exec, f"open({str(trap)!r}, 'w').close()"),
        "open": Touch(open, str(trap), "w"),
        "subprocess": Touch(subprocess.call, ["touch", str(trap)]),
    }


@pytest.mark.parametrize("door", ["os.system", "eval", "exec", "open", "subprocess"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_that_run_code_are_refused(tmp_path, monkeypatch, door, legacy):
    """Weights and checkpoints that call os.system, eval or open give one line, and nothing runs."""
    trap = tmp_path / "trap"
    monkeypatch.chdir(tmp_path)
    evil = {"global_step": 1, "state_dict": {"conv1.weight": spiteful(trap)[door]}}
    path = tmp_path / "evil.pt"
    torch.save(evil, path, _use_new_zipfile_serialization=not legacy)
    torch.load(path, weights_only=False)  # it does what it is said to do, where it may
    assert trap.exists()
    trap.unlink()
    for read in (checkpoint_file.read, weights_file.read):
        with pytest.raises(ConfigError, match=r"\A[^\n]{10,900}\Z"):
            read(path)
    assert not trap.exists()


def test_plain_pickles_and_object_arrays_are_refused(tmp_path):
    """Weights as a bare pickle or as an .npz of Python objects give one line, and nothing runs."""
    trap = tmp_path / "trap"
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"w": spiteful(trap)["os.system"]}))
    np.savez(tmp_path / "objects.npz", w=np.array([spiteful(trap)["os.system"]], dtype=object))
    for name in ("plain.pt", "objects.npz"):
        with pytest.raises(ConfigError, match=r"\A[^\n]*cannot be read as a state dict[^\n]*\Z"):
            weights_file.read(tmp_path / name)
    assert not trap.exists()


@pytest.fixture
def poisoned(tiny, tmp_path):
    """An interrupted run whose checkpoint would make the file `trap`, and all else of which is right."""
    folder = fit(load_experiment(tiny, ["id=one", "logger.wandb=false"]))
    trap = tmp_path / "trap"
    path = RunFolder(folder).checkpoint
    kept = torch.load(path, weights_only=True)
    kept["hyper_parameters"] = {"x": spiteful(trap)["os.system"]}
    torch.save(kept, path)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"status": "interrupted"}))
    return folder, trap


def test_no_command_executes_code_in_a_checkpoint(poisoned, tiny):
    """evaluate, resume, export and fit refuse a checkpoint that would run code."""
    folder, trap = poisoned
    weights_from_it = ["id=two", "logger.wandb=false", f"model.backbone.weights={RunFolder(folder).checkpoint}"]
    for call in (
        lambda: evaluate(folder, []),
        lambda: resume(folder),
        lambda: export.export(folder, "safetensors"),
        lambda: fit(load_experiment(tiny, weights_from_it)),
    ):
        with pytest.raises(ConfigError, match=r"\A[^\n]*last\.ckpt[^\n]*\Z"):
            call()
        assert not trap.exists()
    done = dcnlab("evaluate", folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not trap.exists()
    # Lightning's own door, were ours open.
    parts = build(load_run(folder), RunFolder(folder))
    with pytest.raises(pickle.UnpicklingError):
        score_test_split(parts, RunFolder(folder).checkpoint)
    assert not trap.exists()


def test_a_zip_bomb_is_refused_unread(tmp_path):
    """The size in the archive's directory is enough; nothing is unpacked."""
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("w.npy", "w", force_zip64=True) as part,
    ):
        np.lib.format.write_array_header_1_0(part, {"descr": "<f4", "fortran_order": False, "shape": (2**26,)})
        for _ in range(256):
            part.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(ConfigError, match=r"would unpack to 268435\d+ bytes"):
        weights_file.read(path)
    with pytest.raises(ValueError, match="would unpack"):
        torch_file.load(path)


# YAML and JSON


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{turn + 1}: &a{turn + 1} [{', '.join([f'*a{turn}'] * 9)}]\n" for turn in range(9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!python/object/apply:os.system ['touch trap']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        (BOMB, "expansion exceeds"),
        ("a: &a [*a]", "recursive"),
        ("a: " + "[" * 100_000, "nested more than 24 levels"),
        ("{a: " * 100_000, "nested more than 24 levels"),
        ("- " * 100_000, "nested more than 24 levels"),
        ("# " + "x" * 2**20, "larger than 1 MiB"),
        ("a: " + "9" * 5000, "limit"),
        ("a: 1\na: 2", "duplicate"),
        ("a: \x00", "not YAML"),
    ],
    ids=["call", "name", "bomb", "circle", "lists", "mappings", "dashes", "long", "digits", "twice", "zero"],
)
def test_yaml_that_runs_code_or_never_ends_is_refused(tmp_path, monkeypatch, text, said):
    """Python tags, alias bombs, circles, deep nesting and long numbers each give one line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text)
    for read in (read_yaml, lambda path: load_experiment(str(path))):
        with pytest.raises(ConfigError, match=rf"(?i)\A[^\n]*{said}[^\n]*\Z") as caught:
            read(Path("x.yaml"))
        assert len(str(caught.value)) < 1000
    assert not (tmp_path / "trap").exists()


def test_deeply_nested_overrides_are_refused():
    """50,000 brackets would exhaust the parser's stack and end the process."""
    with pytest.raises(ConfigError, match="nested more than 24 levels"):
        parse_override("data.mean=" + "[" * 50_000)


def test_exponential_references_are_refused(tiny):
    """Each of 60 keys names the last one twice, so the text would grow without end."""
    lines = [f"  k{turn + 1}: ${{sweep.k{turn}}}${{sweep.k{turn}}}" for turn in range(60)]
    Path("config.yaml").write_text("\n".join(["trainer: {max_steps: 1}", "sweep:", "  k0: xxxxxxxx", *lines]))
    with pytest.raises(ConfigError, match=r"holds more than 12 \$\{"):
        load_run(Path())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"seed": 1, "seed": 2}', "'seed' is there twice"),
        ('{"seed": ' + "[" * 100 + "]" * 100 + "}", "nested more than 24 levels"),
        ("[" * 100_000, "recursion"),
        ('{"seed": ' + "9" * 5000 + "}", "limit"),
        (b'{"seed": "\xff"}', "utf-8"),
    ],
)
def test_json_of_parameters_is_refused_in_one_line(tiny, content, said):
    """Repeated keys, deep nesting, very long numbers and bytes that are not UTF-8."""
    Path("args.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=rf"(?i)\Aargs\.json: not JSON: [^\n]*{said}[^\n]*\Z"):
        load_experiment(tiny, ["args.json"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "12", None, True, [1]])
def test_nonfinite_metrics_are_refused_in_results(tmp_path, value):
    """NaN, infinity, texts and lists as a metric make results.json unreadable in one line."""
    good = {"schema": 1, "status": "finished", "seed": 0, "parameters": {}, "model": {}, "cost": {}, "environment": {}}
    for metrics in ({"top1": 5.0}, {"top1": value}):
        (tmp_path / "results.json").write_text(json.dumps({**good, "metrics": metrics}))
        if metrics["top1"] == 5.0:
            assert RunFolder(tmp_path).read_results()["metrics"] == metrics
    with pytest.raises(ConfigError, match=r"\A[^\n]*results\.json: [^\n]*\Z"):
        RunFolder(tmp_path).read_results()


def test_files_above_their_size_limit_are_not_read(tmp_path):
    """A sparse file of 16 GiB is refused by its size, with the limit of its kind."""
    path = tmp_path / "results.json"
    with path.open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        RunFolder(tmp_path).read_results()
    with pytest.raises(ValueError, match="larger than 4096 MiB"):
        json_file.load(path)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        yaml_file.read_yaml(path)


# Images


def chunk(kind, data):
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *more, depth=1, colour=0, pixels=b""):
    """A PNG that says its size, of whatever it holds."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg(width, height):
    """A JPEG of 1 x 1 pixel that says another size."""
    file = io.BytesIO()
    image_file.Image.new("RGB", (1, 1)).save(file, "JPEG")
    content = bytearray(file.getvalue())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def readers(root):
    """Everything that reads an image, from root/train/cat/x.png."""
    from dcnlab.data.detection.annotations import Annotations
    from dcnlab.data.photographs import strings

    path = root / "train/cat/x.png"
    one = Annotations(
        root, ("cat",), strings(["train/cat/x.png"]), np.array([1]), np.array([[60000, 60000]]), np.array([0, 0]),
        np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), np.array([1]),
    )  # fmt: skip
    return {
        "photograph": lambda: image_file.read_image(path),
        "label": lambda: read_label(path),
        "detection": lambda: DetectionSplit(one)[0],
        "classification": lambda: ImageFolderSplit(root, "train")[0],
    }


@pytest.mark.parametrize("kind", ["photograph", "label", "detection", "classification"])
@pytest.mark.parametrize(
    "content", [png(60000, 60000), png(30000, 3000, depth=8), jpeg(60000, 60000), jpeg(9460, 9460)]
)
def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch, kind, content):
    """The size in the file's header is enough to refuse; PIL must not decode a pixel."""

    def decode(*arguments):
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    (tmp_path / "train/cat").mkdir(parents=True)
    (tmp_path / "train/cat/x.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"\A[^\n]*x\.png cannot be read as [^\n]*pixels[^\n]*\Z"):
        readers(tmp_path)[kind]()


def test_the_largest_image_is_1_gib_for_any_pil_setting(tmp_path, monkeypatch):
    """The limit of 89478485 pixels holds even where a script switched PIL's own limit off."""
    assert image_file.MOST_PIXELS * 3 * 4 <= 2**30 < (image_file.MOST_PIXELS + 1) * 3 * 4
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)  # as some scripts have it
    path = tmp_path / "x.png"
    for width, height, fits in ((29826161, 3, True), (29826162, 3, False)):
        path.write_bytes(png(width, height))
        with pytest.raises(ValueError, match="cannot be read") as caught:
            image_file.read_image(path)
        assert ("allowed are 89478485" in str(caught.value)) is not fits


@pytest.mark.parametrize(
    "more",
    [
        chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**28), 9)),
        chunk(b"zTXt", b"t\0\0" + zlib.compress(bytes(2**28), 9)),
        chunk(b"iTXt", b"t\0\1\0\0\0" + zlib.compress(bytes(2**28), 9)),
    ],
    ids=["iCCP", "zTXt", "iTXt"],
)
def test_a_png_bomb_outside_the_pixels_takes_no_memory(tmp_path, monkeypatch, more):
    """Compressed text and colour profiles must not be unpacked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").write_bytes(png(8, 2, more, pixels=b"\0\1\0\2"))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests/helpers')!r})\n"
        "from peak_memory import peak\n"
        "from pathlib import Path\n"
        "from dcnlab.data.labels import read_label\n"
        "before = peak()\n"
        "try:\n    read_label(Path('x.png'))\n"
        "except ValueError as error:\n    assert chr(10) not in str(error)\n"
        "print(peak() - before)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 << 20  # unpacked it would be 256 MiB


def test_postscript_files_are_not_images(tmp_path, monkeypatch):
    """PIL would hand an EPS file named .jpg to Ghostscript, which can run commands."""
    path = tmp_path / "x.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch trap) (w) file\n")
    with image_file.Image.open(path) as image:
        assert image.format == "EPS"  # PIL would hand it to Ghostscript
    with pytest.raises(ValueError, match="it is none of JPEG, PNG"):
        image_file.read_image(path)


def test_an_sbd_label_that_unpacks_to_gigabytes_is_refused(tmp_path):
    """The .mat file is below 200 KB, its array above the limit of 64 MiB."""
    savemat = pytest.importorskip("scipy.io").savemat
    path = tmp_path / "x.mat"
    savemat(path, {"GTcls": {"Segmentation": np.zeros((12000, 12000), np.uint8)}}, do_compression=True)
    assert path.stat().st_size < 200_000
    with pytest.raises(
        ValueError,
        match=r"\A[^\n]*x\.mat cannot be read as [^\n]*unpacks to more than 64 MiB[^\n]*\Z",
    ):
        read_voc_label(path)


# Secrets


MARKER = "5ecre7" * 7


def everything(folder):
    """All files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "variables",
    [
        {"WANDB_API_KEY": MARKER[:40], "WANDB_BASE_URL": f"https://user:{MARKER[:40]}@wandb.example.org"},
        {"WANDB_API_KEY": f"local-{MARKER[:40]}", "WANDB_BASE_URL": "https://wandb.example.org"},
    ],
    ids=["key and address", "key of a server of one's own"],
)
def test_no_api_key_is_written_or_printed(tiny, variables):
    """Keys in environment variables must not be in any file of the run folder or on the console."""
    done = dcnlab("fit", tiny, "id=one", **variables)
    assert done.returncode == 0, done.stderr
    files = everything(Path("runs"))
    assert any("wandb" in path.parts for path in files)
    assert [path for path in files if MARKER[:40].encode() in path.read_bytes()] == []
    assert MARKER[:40] not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "text", ["${oc.env:WANDB_API_KEY}", "${oc.decode:${oc.env:HOME}}", "x${${a}:HOME}", "\\${oc.env:A}"]
)
@pytest.mark.parametrize("where", ["file", "command line", "sweep", "parameters"])
def test_experiments_cannot_read_environment_variables(tiny, text, where):
    """${oc.env:...} in files, parameters and overrides is refused, also nested."""
    args = []
    if where == "file":
        Path("evil.yaml").write_text(f"extends: tiny.yaml\ndata: {{root: {json.dumps(text)}}}\n")
        tiny = "evil.yaml"
    elif where == "parameters":
        Path("args.json").write_text(json.dumps({"logger": {"entity": text}}))
        args = ["args.json"]
    elif where == "command line":
        args = [f"logger.project={text}"]
    with pytest.raises(ConfigError, match=r"\A[^\n]*the environment is not read\Z"):
        load_experiment(tiny, args, {"data.classes": [text]} if where == "sweep" else None)


def test_keys_may_refer_to_other_keys(tiny):
    """${name} and ${trainer.threads} still work where the environment is refused."""
    Path("other.yaml").write_text("extends: tiny.yaml\nlogger:\n  project: of_${name}\n  every: ${trainer.threads}\n")
    found = load_experiment("other.yaml", ["trainer.threads=3"])
    assert (found.logger.project, found.logger.every) == ("of_other", 3)


def test_an_api_key_in_an_experiment_is_not_shown(tiny):
    """logger.api_key is refused as an unknown key, and the message does not repeat its value."""
    Path("key.yaml").write_text(f"extends: tiny.yaml\nlogger: {{api_key: {MARKER}}}\n")
    for arguments in (("key.yaml",), (tiny, f"logger.api_key={MARKER}")):
        done = dcnlab("fit", *arguments)
        assert done.returncode == 2
        assert "no such key logger.api_key" in done.stderr
        assert MARKER not in done.stderr
    assert not Path("runs").exists()


# Paths


def test_a_tilde_is_the_home_folder(tiny, tmp_path, monkeypatch):
    """In out, data.root, model.backbone.weights and extends."""
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["data.name=imagefolder", "data.root=~/pictures", "out=~/results", "model.backbone.weights=~/w.pt"]
    found = load_experiment(tiny, words)
    assert (found.out, found.data.root) == (f"{tmp_path}/results", f"{tmp_path}/pictures")
    assert found.model.backbone.weights == f"{tmp_path}/w.pt"
    (tmp_path / "base.yaml").write_text("extends: ~/tiny.yaml\nseed: 4\n")
    assert load_experiment("base.yaml").seed == 4
