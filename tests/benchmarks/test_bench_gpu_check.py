"""`make gpu-check` without a GPU: time limits lose nothing, failures are named, and every command can be called."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import fused
import gpu_check
import gpu_doctor
import gpu_page
import gpu_parts
import gpu_sanitizer
import measure
import networks
import operators
import pytest
import record
import roi_pooling
import torch
from command_line import environment
from gpu_parts import PARTS, Part
from processes import GUARD, await_

from dcnlab.ops.cuda import fused_dispatch

HERE = Path(gpu_check.__file__).parent

TALKS = "import json, sys; print('hello'); open(sys.argv[1], 'a').write(json.dumps({'number': %s}) + chr(10))\n"
NAP = str(10_000 + os.getpid())
"""Seconds of a sleep, by which it is found: the tests of another process sleep for another time."""
SLEEPS = f"import subprocess, time; subprocess.Popen(['sleep', '{NAP}']); time.sleep({NAP})\n"
FAILS = "raise SystemExit('broken')\n"


def part(name: str, code: str, weight: float = 1.0) -> Part:
    return Part(name, weight, ("-c", code, "{rows}"), ("-c", code, "{rows}"))


def check(parts: list[Part], seconds: float, path: Path, dry: bool = False) -> dict:
    result = gpu_check.Result(path, seconds / 60, dry)
    gpu_check.run(parts, seconds + gpu_check.KEPT, dry, result, dict(os.environ))
    return json.loads(path.read_text())["parts"]


class Leaping:
    """A clock that leaps to the first part's time limit once its row is in the file."""

    def __init__(self, path, part, seconds):
        self.path, self.part, self.seconds = path, part, seconds

    def monotonic(self):
        found = json.loads(self.path.read_text())["parts"].get(self.part, {}) if self.path.exists() else {}
        return time.monotonic() + (self.seconds if found.get("rows") else 0)


def test_a_stopped_part_keeps_its_rows_and_others_run(tmp_path, monkeypatch):
    """A part at its time limit keeps its rows and leaves no process; a failing part stops no other."""
    out = tmp_path / "out.json"
    # Of 46 minutes the first part has six, and those after it the rest.
    monkeypatch.setattr(gpu_check, "time", Leaping(out, "stopped", 400))
    parts = check(
        [part("stopped", TALKS % 1 + SLEEPS, 0.3), part("fails", TALKS % 2 + FAILS), part("last", TALKS % 3)],
        46 * 60,
        out,
    )
    assert {name: found["status"] for name, found in parts.items()} == {
        "stopped": "time limit",
        "fails": "failed",
        "last": "ok",
    }
    assert [found["rows"] for found in parts.values()] == [[{"number": 1}], [{"number": 2}], [{"number": 3}]]
    assert parts["fails"]["output"] == ["hello", "broken"]
    assert "output" not in parts["last"]
    assert not processes()


def processes() -> list[str]:
    """The sleepers, each with its parent's number."""
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split()[1:] == ["sleep", NAP]]


def test_a_part_without_a_dry_command_is_left_out(tmp_path):
    """With --dry such a part is listed as left out, with the reason that it needs a GPU."""
    parts = check([Part("only", 1, ("-c", FAILS))], 5, tmp_path / "out.json", dry=True)
    assert parts == {"only": {"rows": [], "status": "left out", "why": "needs a GPU"}}


def test_parts_without_time_are_left_out(tmp_path):
    """When the budget is used up, a part is listed as left out and not started."""
    parts = check([part("late", TALKS % 1)], -1, tmp_path / "out.json")
    assert parts == {"late": {"rows": [], "status": "left out", "why": "no time was left"}}


CHANGED = f"""
import gpu_check, gpu_parts, pathlib
code = {TALKS % 7 + SLEEPS!r}
gpu_check.PARTS = (gpu_parts.Part("long", 1, ("-c", code, "{{rows}}")),)
gpu_check.missing = lambda names=None: []
gpu_check.main()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_check_has_written_every_row(how, tmp_path):
    """SIGKILL or SIGTERM of the check loses no finished row, and SIGTERM leaves no process."""
    out = tmp_path / "out.json"
    paths = os.pathsep.join((str(HERE), str(HERE.parent)))
    command = [sys.executable, "-c", CHANGED, "--out", str(out), "--minutes", "60"]
    process = subprocess.Popen(
        command, env=environment(PYTHONPATH=paths), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    await_(lambda: out.exists() and json.loads(out.read_text())["parts"].get("long", {}).get("rows"))
    child = next(int(line.split()[0]) for line in processes())
    process.send_signal(how)
    said, _ = process.communicate(timeout=GUARD)
    found = json.loads(out.read_text())["parts"]["long"]
    assert found["rows"] == [{"number": 7}]
    if how == signal.SIGTERM:
        assert process.returncode == 130
        assert found["status"] == "interrupted"
        assert "long: interrupted" in said
        assert not processes()
    else:
        os.killpg(child, signal.SIGKILL)  # nobody is left to do it


def test_too_few_minutes_are_refused_in_one_line():
    """--minutes 0.1 is below the time kept for the end, so the script exits with status 2."""
    command = [sys.executable, str(HERE / "gpu_check.py"), "--out", os.devnull + "x"]
    done = subprocess.run(
        [*command[:2], "--minutes", "0.1"], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--minutes is 0.1; must be more than 0.33" in done.stderr


def test_check_without_a_gpu_stops_at_its_first_part(tmp_path):
    """Where the doctor finds no CUDA GPU, the check stops with one line that names --dry."""
    with pytest.raises(SystemExit, match=r"^gpu_check: there is no CUDA GPU here; --dry tries the parts on the CPU$"):
        check([part("doctor", f"raise SystemExit({gpu_doctor.NO_GPU})")], 20, tmp_path / "out.json")


CASES = """
import pytest
@pytest.mark.parametrize("n", [0, 1, 2])
def test_one(n): assert n != 2
@pytest.fixture
def broken(): raise OSError("no fixture")
def test_two(broken): pass
@pytest.mark.skip(reason="not today")
@pytest.mark.parametrize("n", [0, 1])
def test_three(n): pass
"""


def test_first_case_of_every_test_runs_first(tmp_path):
    """The first parametrized case of each test runs before all others; each outcome becomes a row."""
    (tmp_path / "test_cases.py").write_text(CASES)
    command = [sys.executable, "-m", "pytest", "-p", "gpu_tests", "-p", "no:cacheprovider", "-q", "--rows", "rows"]
    done = subprocess.run(
        [*command, "test_cases.py"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(HERE)),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [(row["test"].partition("::")[2], row["outcome"]) for row in rows] == [
        ("test_one[0]", "passed"),
        ("test_two", "failed"),
        ("test_three[0]", "skipped"),
        ("test_one[1]", "passed"),
        ("test_one[2]", "failed"),
        ("test_three[1]", "skipped"),
    ]
    assert rows[1]["error"] == "OSError: no fixture"
    assert "test_cases.py:6: OSError" in rows[1]["why"]
    assert "not today" in rows[2]["why"]


class Called(Exception):
    pass


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
@pytest.mark.parametrize("dry", [False, True], ids=["on a GPU", "dry"])
def test_every_command_is_understood_by_its_script(part, dry, monkeypatch):
    """The argument parser of each part's script, or pytest, accepts the part's command."""
    command = part.dry if dry else part.command
    if command is None:
        return
    words = [{"{rows}": "rows", "{minutes}": "1.5"}.get(word, word) for word in command]
    if words[0] == "-m":
        assert words[1] == "pytest"
        assert set(gpu_parts.GPU_TESTS) <= set(words)
        assert len(gpu_parts.GPU_TESTS) >= 3
        return
    scripts = {"operators": operators, "roi_pooling": roi_pooling, "fused": fused, "networks": networks}
    scripts |= {"gpu_doctor": gpu_doctor, "gpu_sanitizer": gpu_sanitizer}
    script = scripts[Path(words[0]).stem]

    def called(*args, **kwargs):
        raise Called

    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not dry)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(script, "run", called, raising=False)
    monkeypatch.setattr(record, "machine", called)
    monkeypatch.setattr(gpu_sanitizer.shutil, "which", called)
    with pytest.raises(Called):
        script.main()


def test_fused_benchmark_writes_rows_and_a_rule_per_dtype(monkeypatch, tmp_path):
    """The rule is the crossover for bfloat16, and none for float16, which is never faster."""
    monkeypatch.setenv("DCNLAB_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(fused, "make", lambda way, channels, size, dtype: (way, channels, dtype))

    def seconds(works, rounds, device):  # faster up to 96 channels in bfloat16, never in float16
        (_, channels, dtype), _ = works
        return [1.0, 1.2 if dtype == torch.bfloat16 and channels <= 96 else 0.9]

    monkeypatch.setattr(measure, "seconds", seconds)
    words = f"fused.py --dtype bfloat16 float16 --rule --minutes 1 --rows {tmp_path / 'rows'}".split()
    monkeypatch.setattr(sys, "argv", words)
    fused_dispatch.crossovers.cache_clear()
    try:
        fused.main()
        found = fused_dispatch.crossovers("A GPU")
    finally:
        fused_dispatch.crossovers.cache_clear()
    assert found == {"torch.bfloat16": fused_dispatch.Crossover(64, 96, 1024), "torch.float16": None}
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert len(rows) == 2 * len(fused.CHANNELS) * len(fused.MAPS)
    look = gpu_page.look_at({"parts": {"fused": {"status": "ok", "rows": rows}}})
    assert look == [
        f"fused, torch.{dtype}: faster up to {most} channels, expected 128: see PRIOR in ops/cuda/choice.py"
        for dtype, most in (("bfloat16", 96), ("float16", 0))
    ]


def test_work_that_cuda_graphs_refuse_is_left_out(monkeypatch):
    """A failing CUDA graph capture gives a warning and no row; the benchmark continues."""

    class Nothing:
        def __init__(self, *args):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def wait_stream(self, other):
            pass

        def replay(self):
            return "replayed"

    for name in ("Stream", "stream", "graph", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    monkeypatch.setattr(torch.cuda, "current_stream", Nothing)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    calls = []

    def refuses():
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    works = {"good": lambda: None, "bad": refuses}
    with pytest.warns(UserWarning, match=r"^not captured: operation not permitted when stream is capturing$"):
        found = measure.in_mode("replay", works, "cuda")
    assert list(found) == ["good"]
    assert found["good"]() == "replayed"
    assert measure.in_mode("eager", works, "cuda") is works


SANITIZER = """#!/bin/sh
test "$2" = memcheck && { echo "========= Invalid __global__ write"; echo "========= ERROR SUMMARY: 1 error"; exit 9; }
echo "========= ERROR SUMMARY: 0 errors"
"""


def test_an_error_of_one_sanitizer_tool_fails_the_part(tmp_path, monkeypatch):
    """Every tool of compute-sanitizer runs, even after memcheck reports an error."""
    (tmp_path / "compute-sanitizer").write_text(SANITIZER)
    (tmp_path / "compute-sanitizer").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sys, "argv", ["gpu_sanitizer.py", "--rows", str(tmp_path / "rows")])
    with pytest.raises(SystemExit) as ended:
        gpu_sanitizer.main()
    assert ended.value.code == 1
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert {row["tool"]: (row["status"], row["summary"]) for row in rows} == {
        tool: (9, "ERROR SUMMARY: 1 error") if tool == "memcheck" else (0, "ERROR SUMMARY: 0 errors")
        for tool in gpu_sanitizer.TOOLS
    }
    assert gpu_page.look_at({"parts": {"sanitizer": {"status": "failed", "rows": rows}}}) == [
        "sanitizer: failed; ",
        "compute-sanitizer memcheck: ERROR SUMMARY: 1 error",
    ]


def test_without_compute_sanitizer_its_part_is_left_out(monkeypatch, tmp_path, capsys):
    """The part exits with the status for "left out" and names the CUDA toolkit."""
    monkeypatch.setattr(gpu_sanitizer.shutil, "which", lambda *args, **kwargs: None)
    monkeypatch.setattr(sys, "argv", ["gpu_sanitizer.py", "--rows", str(tmp_path / "rows")])
    with pytest.raises(SystemExit) as ended:
        gpu_sanitizer.main()
    assert ended.value.code == gpu_check.ABSENT
    assert gpu_check._word(gpu_check.ABSENT) == "left out"
    assert "comes with the CUDA toolkit" in capsys.readouterr().err


def test_the_page_lists_slow_waiting_and_failed_rows():
    """Rows below their goal, launch-bound rows and failed parts each become a line of the page."""
    shape = {"shape": "512x64x64 d1 n1", "batch": 1}
    eager = {"mode": "eager", "ours_channels_last_ms": 0.9, "times_faster_than_torchvision": 0.8, "times_plain": 1.5}
    replay = {"mode": "replay", "ours_channels_last_ms": 0.3, "share_of_floor": 0.1, "times_plain": 5.0}
    memory = {"ours_mib": 90.0, "torchvision_mib": 30.0}
    parts = {
        "doctor": {
            "status": "failed",
            "seconds": 3.0,
            "rows": [
                {"section": "GPUs", "mark": "ok", "text": "x"},
                {"section": "o", "mark": "FAILED", "text": "pool"},
            ],
            "output": ["line", ""],
        },
        "tests": {
            "status": "failed",
            "rows": [{"test": f"t[{n}]", "outcome": "failed", "error": "b", "why": "E b"} for n in range(7)],
        },
        "operators, bfloat16": {
            "status": "ok",
            "rows": [shape | {"pass": "forward"} | eager | memory, shape | {"pass": "forward"} | replay],
        },
        "networks": {"status": "ok", "rows": [{"network": "rfcn", "pass": "training", "times_plain": 1.2}]},
    }
    result = {"machine": {"device": "H200", "torch": "2.11"}, "dry": False, "parts": parts}
    found = gpu_page.look_at(result)
    call = "operators, bfloat16: 512x64x64 d1 n1 forward"
    assert found == [
        "doctor: failed; line",
        "tests: failed; ",
        "doctor: pool",
        *(f"t[{n}]: b" for n in range(5)),
        "2 more tests that failed",
        f"{call} replay: 10% of what the GPU could do",
        f"{call} replay: 5.00 times the plain one's time",
        f"{call} eager: 90 MiB, torchvision's 30",
        f"{call} eager: times faster than torchvision 0.80",
        f"{call}: 0.900 ms from Python, 0.300 as a CUDA graph: the GPU waits",
    ]
    page = gpu_page.page(result)
    assert page.startswith("H200, torch 2.11\n")
    assert "1 FAILED" in page
    assert "7 failed" in page
    assert all(f"- {line}" in page for line in found)
    quiet = gpu_page.page({"machine": {}, "dry": True, "parts": {"networks": parts["networks"] | {"seconds": 1.0}}})
    assert quiet.endswith("Nothing to look at.")


def closure(names: tuple[str, ...]) -> set[str]:
    """Installed distributions that these depend on, themselves included."""
    from packaging.requirements import Requirement

    found, to_see = set(), list(names)
    while to_see:
        name = to_see.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            wanted = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        found.add(name)
        to_see += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_listed_wheels_complete_the_given_packages():
    """The listed wheels and the given packages do not overlap and together cover every dependency."""
    wheels = {name.lower() for name in gpu_parts.WHEELS}
    assert not wheels & closure(gpu_parts.GIVEN)
    assert closure(gpu_parts.WHEELS) <= wheels | closure(gpu_parts.GIVEN)
    assert [line.partition("==")[0].lower() for line in gpu_parts.pinned()] == [
        name.lower() for name in gpu_parts.WHEELS
    ]


BARE = """
import functools, importlib.machinery, importlib.metadata, sys
allowed = set(sys.argv[1].split(","))
tops = {top: {name.lower().replace("_", "-") for name in names}
        for top, names in importlib.metadata.packages_distributions().items()}
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    top = name.partition(".")[0]
    return None if top in tops and not tops[top] & allowed else find(name, path, target)
importlib.machinery.PathFinder.find_spec = functools.partial(find_spec)
given = importlib.metadata.Distribution.from_name
def from_name(name):
    if name.lower().replace("_", "-") not in allowed:
        raise importlib.metadata.PackageNotFoundError(name)
    return given(name)
importlib.metadata.Distribution.from_name = staticmethod(from_name)
import fused, networks, operators, roi_pooling, gpu_doctor, pytest
from dcnlab.cli import doctor
for name in ("deeplab", "rfcn"):
    networks.make(name, "ours", "resnet18", (64, 96), "cpu", "float32", True)()
assert {mark for _, mark, _ in doctor.findings(("operators",))} == {"ok"}
options = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "gpu_tests"]
sys.exit(pytest.main([*options, "-m", "gpu", "-k", *sys.argv[2:]]))
"""


@pytest.mark.slow
def test_gpu_tests_import_only_given_packages_and_wheels():
    """Any other import fails; the sanitizer's selection has up to 8 tests, from every file."""
    allowed = closure(gpu_parts.WHEELS) | closure(gpu_parts.GIVEN) | {"dcnlab"}
    command = [sys.executable, "-c", BARE, ",".join(allowed), gpu_parts.SANITIZED, *gpu_parts.GPU_TESTS]
    paths = os.pathsep.join((str(HERE), str(HERE.parent)))
    env = environment(PYTHONPATH=paths, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    done = subprocess.run(command, cwd=gpu_parts.ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    listed = [line for line in done.stdout.splitlines() if "::" in line]
    assert {line.partition("::")[0] for line in listed} == set(gpu_parts.GPU_TESTS)
    assert len(listed) <= 8


def test_packages_that_no_wheel_brings_are_named(monkeypatch, tmp_path):
    """The error names the missing packages and the command that lists the wheels to bring."""
    monkeypatch.setattr(gpu_check, "missing", lambda names=None: [] if names else ["pluggy", "tabulate"])
    (tmp_path / "wheels").mkdir()
    with pytest.raises(
        SystemExit, match=r"^gpu_check: not installed, .*: pluggy, tabulate; .* --list-wheels > list && "
    ):
        gpu_check.install(str(tmp_path / "put"), tmp_path / "wheels")


def test_a_python_without_torch_is_refused_in_one_line(monkeypatch, tmp_path):
    """Without torch and its companions the check names them instead of installing them."""

    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(gpu_parts, "version", version)
    with pytest.raises(SystemExit, match=r"lacks torch, torchvision, pytorch-lightning: take another one"):
        gpu_check.install(str(tmp_path), tmp_path)


def test_missing_packages_are_installed_from_the_wheels(monkeypatch, tmp_path):
    """pip installs from the folder of wheels alone, without network."""
    toy = tmp_path / "toy"
    toy.mkdir()
    (toy / "toyz.py").write_text("VALUE = 3\n")
    (toy / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "toyz"\nversion = "1"\n[tool.setuptools]\npy-modules = ["toyz"]\n'
    )
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "wheels"), str(toy)]
    subprocess.run(build, check=True, capture_output=True)
    monkeypatch.setattr(gpu_check, "missing", lambda names=None: [] if names else ["toyz"])
    gpu_check.install(str(tmp_path / "put"), tmp_path / "wheels")
    assert (tmp_path / "put" / "toyz.py").is_file()
    assert str(tmp_path / "put") in gpu_check._environment(str(tmp_path / "put"), True)["PYTHONPATH"].split(os.pathsep)


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], "--minutes 9"), (["MINUTES=4", "DRY=1"], "--minutes 4 --dry"), (["PYTHON=python9"], "python9 benchmarks/")],
)
def test_make_gpu_check_needs_no_virtual_environment(tmp_path, words, expected):
    """`make gpu-check` uses the machine's Python and installs nothing with pip."""
    shutil.copy(gpu_parts.ROOT / "Makefile", tmp_path)
    done = subprocess.run(
        ["make", "--dry-run", "gpu-check", *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert expected in done.stdout
    assert "pip" not in done.stdout
