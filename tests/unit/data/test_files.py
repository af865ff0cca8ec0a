"""Special files never block and never count as data; links are followed by one rule; lists and JSON stay bounded."""

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from command_line import environment, python, start_python
from locations import ROOT
from PIL import Image
from processes import GUARD

from dcnlab.data import image_list, loaders
from dcnlab.data.classification.image_folder import ImageFolderSplit
from dcnlab.data.labels import check_classes, read_label
from dcnlab.data.segmentation.voc import read_voc_label
from dcnlab.io import files, json_file, torch_file, yaml_file
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.io.file_lock import lock
from dcnlab.io.folders import files_below
from dcnlab.io.image_file import read_image
from dcnlab.metrics import box_dilation, image_records
from dcnlab.models import weights_file
from dcnlab.training import checkpoint_file
from dcnlab.training.run_folder import RunFolder


def special(path, kind):
    """Make something at a path that is not a regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)


READERS = {
    "JSON": json_file.load,
    "YAML": yaml_file.read_yaml,
    "list": image_list.read_lines,
    "image": read_image,
    "label": read_label,
    "SBD's label": lambda path: read_voc_label(path.rename(path.with_suffix(".mat"))),
    "weights": lambda path: weights_file._contents(path),
    "checkpoint": checkpoint_file.read,
    "tensors": torch_file.load,
    "log": files.read_tail,
    "test images": image_records.read,
    "boxes": box_dilation.read,
    "results": lambda path: RunFolder(path.rename(path.with_name("results.json")).parent).read_results(),
}


@pytest.mark.timeout(GUARD)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket"])
@pytest.mark.parametrize("reader", READERS)
def test_special_files_are_refused_by_every_reader(tmp_path, reader, kind):
    """A pipe would block forever; a device, folder or socket holds no data."""
    path = tmp_path / "x"
    special(path, kind)
    with pytest.raises((OSError, ValueError), match=r"\A[^\n]*a regular file is needed[^\n]*\Z"):
        READERS[reader](path)


def test_a_pipe_as_a_lock_file_does_not_block(tmp_path):
    """Opening a pipe would wait for a writer; an error asks for a regular file."""
    special(tmp_path / ".lock", "pipe")
    with pytest.raises(OSError, match="regular file"), lock(tmp_path / ".lock"):
        pass


def test_every_file_is_opened_via_io_files():
    """No other module calls open, read_text or read_bytes, apart from a list of known exceptions."""
    own = {"dcnlab/io/files.py"}
    wrong = []
    for path in sorted((ROOT / "dcnlab").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            last = name.rpartition(".")[2]
            if last not in ("open", "read_text", "read_bytes") or str(path.relative_to(ROOT)) in own:
                continue
            wrong.append(f"{path.relative_to(ROOT)}: {ast.unparse(node)}")
    # What is left: our own packaged files, the system's, what was just written, and images of an open file.
    allowed = (
        "Image.open(file, formats=FORMATS)", "os.open(", "read_bytes(path,", "read_bytes(", "temporary.open('wb')",
        "self._path.open('ab')", "(self._folder / name).open('w'",
        "(folder() / name).read_bytes", "(FOLDER / name).read_text",
        "(root / name).read_text", "Path('/sys", "Path('/proc",
        "status.read_text", "Path(f'/proc", "Path(__file__)", "(folder / 't10k",
    )  # fmt: skip
    assert [line for line in wrong if not line.partition(": ")[2].startswith(allowed)] == []


def test_a_growing_file_is_read_within_the_limit(tmp_path, monkeypatch):
    """Where fstat gives no size, as in /proc, the limit holds while reading."""
    path = tmp_path / "x"
    path.write_bytes(b"x" * 10)
    monkeypatch.setattr(files.os, "fstat", lambda number: os.stat_result((0o100644, *[0] * 9)))  # no size, as in /proc
    assert files.read_bytes(path, 10) == b"x" * 10
    with pytest.raises(ValueError, match="larger than"):
        files.read_bytes(path, 9)


def test_the_end_of_a_log_is_read_without_its_beginning(tmp_path):
    """A sparse log of 64 GiB is read from its end; bytes that are not UTF-8 are replaced."""
    path = tmp_path / "log.txt"
    with path.open("wb") as file:
        file.truncate(2**36)
        file.seek(2**36)
        file.write(b"\nlast but one\nlast\xff")
    assert files.read_tail(path)[-2:] == ["last but one", "last\N{REPLACEMENT CHARACTER}"]


# Memory and time


LIMITED = """
import json, resource, sys
from pathlib import Path
from dcnlab.io import json_file
room = 192 * 2**20
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + room, now + room))
"""


def limited(code, folder):
    """Run code in a process that may take 192 MiB more than it has."""
    command = [sys.executable, "-c", LIMITED + code]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=GUARD)


def test_small_json_is_read_with_little_memory(tmp_path):
    """The buffer must follow the file's size, not the limit."""
    (tmp_path / "x.json").write_text("{}")
    done = limited("print(json_file.load(Path('x.json')))", tmp_path)
    assert (done.returncode, done.stdout) == (0, "{}\n"), done.stderr


def test_json_larger_than_the_memory_is_refused_in_one_line(tmp_path):
    """A sparse file of 2 GiB and four million lists, in a process with limited memory."""
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(2**31)
    (tmp_path / "y.json").write_text("[" + "[]," * 4_000_000 + "[]]")
    code = """
for name in ("x.json", "y.json"):
    try:
        json_file.load(Path(name))
    except ValueError as error:
        print(error)
"""
    done = limited(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout
        == "its 2147483648 bytes do not fit into the memory that is left\nthere is not enough memory for it\n"
    )


@pytest.mark.parametrize("place", [0, 149_999])
def test_a_repeated_key_is_found_in_linear_time(tmp_path, place):
    """Counting each key anew would take minutes for 150,000 keys."""
    keys = [f'"key {number}": 0' for number in range(150_000)]
    path = tmp_path / "x.json"
    path.write_text("{" + ", ".join([*keys, keys[place]]) + "}")
    began = time.process_time()
    with pytest.raises(ValueError, match=f"'key {place}' is there twice"):
        json_file.load(path)
    assert time.process_time() - began < 20  # by counting each key anew it takes minutes


def test_lists_of_millions_of_lines_are_refused(tmp_path):
    """More than 4,000,000 lines or 256 MiB are refused before they fill the memory."""
    path = tmp_path / "x.txt"
    path.write_bytes(b"\n" * (image_list.MOST_LINES + 1))
    with pytest.raises(ValueError, match=r"x\.txt [^\n]*4000001 lines; allowed are 4000000"):
        image_list.read_lines(path)
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="larger than 256 MiB"):
        image_list.read_lines(path)
    with pytest.raises(ValueError, match="names 100000 classes, should be 1 to 254"):
        check_classes([str(number) for number in range(100_000)])


# Links


@pytest.fixture
def one_image(tmp_path):
    """An image folder of one image, at train/a/1.png."""
    (tmp_path / "train/a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "train/a/1.png")
    return tmp_path


def names(root):
    return [os.path.relpath(path, root) for path, _ in ImageFolderSplit(root, "train").samples]


@pytest.mark.parametrize("links", [["x"], ["x", "y"], ["x", "y", "z"]])
def test_links_to_the_folder_itself_count_each_image_once(one_image, links, caplog):
    """One to three such links give one warning that names the first."""
    for name in links:
        (one_image / "train/a" / name).symlink_to(".")
    assert names(one_image) == ["train/a/1.png"]
    assert [record.getMessage().count("read already") for record in caplog.records] == [1]
    assert str(one_image / "train/a/x") in caplog.text


def test_cyclic_folder_links_end(one_image):
    """2**40 paths lead through 40 folders; each folder is visited once."""
    inner = one_image / "train/a"
    for _ in range(40):  # 2^40 ways through 40 folders
        (inner / "deep").mkdir()
        for name in ("x", "y"):
            (inner / name).symlink_to("deep")
        inner = inner / "deep"
    Image.new("RGB", (8, 8)).save(inner / "2.png")
    assert [Path(name).name for name in names(one_image)] == ["1.png", "2.png"]


def test_links_out_of_the_root_are_followed(one_image, tmp_path_factory):
    """Data on another disk is often linked; images and folders count alike."""
    elsewhere = tmp_path_factory.mktemp("disk")
    Image.new("RGB", (8, 8)).save(elsewhere / "3.png")
    (one_image / "train/b").symlink_to(elsewhere)
    (one_image / "train/a/more").symlink_to(elsewhere)
    (one_image / "train/a/4.png").symlink_to(elsewhere / "3.png")
    assert names(one_image) == ["train/a/1.png", "train/a/4.png", "train/a/more/3.png", "train/b/3.png"]


def test_a_linked_folder_keeps_its_real_name(one_image):
    """Images in a folder with a link to it are listed once, under the folder's name."""
    (one_image / "train/a/b").mkdir()
    (one_image / "train/a/a").symlink_to("b")
    Image.new("RGB", (8, 8)).save(one_image / "train/a/b/2.png")
    assert names(one_image) == ["train/a/1.png", "train/a/b/2.png"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: os.mkfifo(path), "is a pipe; images are regular files"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    ],
    ids=["pipe", "link to nothing", "link to itself"],
)
def test_special_files_named_as_images_are_refused_at_once(one_image, make, said):
    """A pipe, a broken link and a link to itself named .png stop the run before training."""
    make(one_image / "train/a/2.png")
    with pytest.raises(ValueError, match=rf"\A[^\n]*2\.png[^\n]*{said}[^\n]*\Z"):
        ImageFolderSplit(one_image, "train")


def test_broken_links_and_pipes_are_not_images(one_image):
    """A link to itself and a pipe in an image folder are skipped, not refused."""
    (one_image / "train/a/notes").symlink_to("notes")
    os.mkfifo(one_image / "train/a/pipe")
    assert names(one_image) == ["train/a/1.png"]


def test_a_name_that_is_not_utf8_is_refused_in_one_line(one_image):
    os.rename(one_image / "train/a/1.png", os.fsencode(one_image / "train/a") + b"/caf\xe9.png")
    with pytest.raises(ValueError, match=r"\Athe name of \S*caf\\udce9\.png is not UTF-8; rename it\Z"):
        ImageFolderSplit(one_image, "train")


def test_scored_folders_follow_the_same_rule(one_image):
    """Folders of `dcnlab score` skip links that form a loop, too."""
    (one_image / "train/a/x").symlink_to(".")
    assert files_below(one_image / "train", (".png",)) == [str(one_image / "train/a/1.png")]


# The folder of the loaders' sockets


def test_the_next_run_removes_a_killed_runs_socket_folder(tmp_path):
    """Only folders of ours without a living owner go; a user's folder of the same prefix stays."""
    code = f"import os, signal, tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
    code += "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
    code += "from dcnlab.data import loaders; print(loaders.claim_folder(), flush=True); "
    (tmp_path / f"{loaders.PREFIX}mine").mkdir()
    (tmp_path / f"{loaders.PREFIX}mine" / "thesis.txt").write_text("not ours")

    def run(end):
        return python("-c", code + end).stdout.strip()

    killed = Path(run("os.kill(os.getpid(), signal.SIGKILL)"))
    assert killed.is_dir()
    assert killed.parent == tmp_path
    alive = start_python("-c", code + "signal.sigwait({signal.SIGUSR1})")
    held = Path(alive.stdout.readline().strip())
    assert not killed.exists()
    assert not Path(run("")).exists()  # ended by itself
    assert held.is_dir()  # at work still
    alive.send_signal(signal.SIGUSR1)
    alive.communicate(timeout=GUARD)
    assert not held.exists()
    assert [path.name for path in tmp_path.iterdir()] == [f"{loaders.PREFIX}mine"]


def test_a_rename_is_synced_to_disk(tmp_path, monkeypatch):
    """The folder is fsynced after the file, or a power cut could lose the name."""
    synced = []
    plain = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.append(os.readlink(f"/proc/self/fd/{number}")), plain(number))
    )
    write_whole(tmp_path / "x.json", "{}")
    assert synced[-1] == str(tmp_path)
    assert len(synced) == 2


def test_results_json_is_checked_entry_by_entry(tmp_path):
    """Lone surrogates, too many entries, long names and wrong types are refused."""
    good = {"schema": 1, "status": "finished", "seed": 0, "parameters": {}, "model": {}, "cost": {}, "environment": {}}
    for change, said in (
        ({"metrics": {"top1": 1.0, "\ud800": 2.0}}, "lone surrogate"),
        ({"metrics": {}, "reason": "\udcff"}, "lone surrogate"),
        ({"metrics": {}, "parameters": {f"k{n}": 0 for n in range(1001)}}, "1001 entries; allowed are 1000"),
        ({"metrics": {f"k{n}": 0 for n in range(101)}}, "101 of the whole test; allowed are 100"),
        ({"metrics": {"x" * 1001: 0}}, "1001 characters"),
        ({"metrics": {}, "environment": {"world_size": "8"}}, "must be a whole number"),
        ({"metrics": {}, "environment": {"gpu": 8}}, "must be text"),
    ):
        (tmp_path / "results.json").write_text(json.dumps(good | change))
        with pytest.raises(ConfigError, match=rf"\A[^\n]*results\.json: [^\n]*{said}[^\n]*\Z"):
            RunFolder(tmp_path).read_results()


def test_the_reason_of_a_failure_may_quote_any_name(tmp_path):
    """Bytes that are not UTF-8 in a file's name are escaped in results.json."""
    good = {"schema": 1, "status": "failed", "seed": 0, "parameters": {}, "model": {}, "cost": {}, "environment": {}}
    RunFolder(tmp_path).write_results({**good, "metrics": {}, "reason": "caf\udce9.png is broken"})
    assert RunFolder(tmp_path).read_results()["reason"] == "caf\\udce9.png is broken"


def test_a_removed_socket_folder_is_made_again(tmp_path, monkeypatch):
    """Another process may remove the new folder before it is locked; a second one is made."""
    made, make = [], tempfile.mkdtemp

    def and_lose_the_first(**options):
        made.append(make(dir=tmp_path, **options))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(loaders.tempfile, "mkdtemp", and_lose_the_first)
    assert loaders._locked() == made[1]
    assert len(made) == 2
