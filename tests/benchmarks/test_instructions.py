"""The guard of instruction counts: its comparison on made-up counts, its counting on a loop of known length."""

import copy
import itertools
import json
import os
import subprocess
import sys
from collections import defaultdict

import callgrind
import count_comparison
import instructions
import pytest
from locations import ROOT

PARTS = {"interpreter": 800_000, "numba: sample": 100_000, "libc": 100_000}
ROWS = [{"path": "conv", "instructions": 1_000_000, "spread": 0.0, "parts": PARTS}]
USED = {"processor seen": "P", "numba": "haswell", "torch": "AVX2", "oneDNN": "Intel AVX", "MKL": "SSE4.2"}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A file of counts of this environment, which has one path."""
    monkeypatch.setattr(callgrind, "version", lambda: "valgrind-3.0")
    monkeypatch.setattr(instructions, "known_paths", lambda: ["conv"])
    path = tmp_path / "kept.json"
    settings = {**count_comparison.conditions(), "used": USED}
    path.write_text(json.dumps({"schema": 1, "machine": {"device": "another"}, "settings": settings, "rows": ROWS}))
    return path


def grown(**more):
    """The rows with more instructions in some parts."""
    rows = copy.deepcopy(ROWS)
    for part, count in more.items():
        name = part.replace("numba_", "numba: ")
        rows[0]["parts"][name] = rows[0]["parts"].get(name, 0) + count
        rows[0]["instructions"] += count
    return rows


def run(monkeypatch, capsys, *words):
    """Exit status, standard output and errors of the command."""
    monkeypatch.setattr(sys, "argv", ["instructions.py", *map(str, words)])
    with pytest.raises(SystemExit) as exit:
        instructions.main()
    said = capsys.readouterr()
    return exit.value.code or 0, said.out, said.err


@pytest.mark.parametrize(
    ("more", "too_much"),
    [
        ({}, False),
        ({"interpreter": 9_900}, False),
        ({"interpreter": 10_100}, True),
        ({"interpreter": -300_000}, False),
        ({"numba_sample": 1_900}, False),
        ({"numba_sample": 2_100}, True),  # two thousandths of the whole, but two per cent of our kernels
        ({"numba_sample": 50_000, "libc": -90_000}, False),  # work moved into a kernel that does it cheaper
        ({"numba_other": 3_000}, True),
    ],
)
def test_a_path_that_grows_beyond_the_tolerances_fails(kept, monkeypatch, capsys, more, too_much):
    """Growth within the tolerances passes, beyond them the status is 1; another processor is noted."""
    monkeypatch.setattr(instructions, "count", lambda paths: (grown(**more), USED))
    status, out, err = run(monkeypatch, capsys, "--against", kept)
    assert (status, "TOO MUCH" in out) == (int(too_much), too_much)
    assert f"{kept} on another" in err  # the file is of another processor


def test_a_change_names_the_kernels_that_caused_it():
    """The line has the total's percentage and the added instructions of each part above its limit."""
    (line,), paths = count_comparison.compare(ROWS, grown(numba_sample=60_000, interpreter=20_000, libc=10))
    assert line == ("conv: 1,080,010, +8.00%, kernels +60.00% (numba: sample +60,000; interpreter +20,000), TOO MUCH")
    assert paths == ["conv"]


def test_small_kernels_keep_their_row_and_libraries_do_not():
    """A numba kernel keeps its name at any count; small libraries are summed under "others"."""
    parts = {"interpreter": 998_000, "numba: sample": 999, "libc": 999, "libm": 2}
    assert instructions.row("conv", [callgrind.Count("conv", parts)])["parts"] == {
        "interpreter": 998_000, "numba: sample": 999, "others": 1_001,
    }  # fmt: skip


def test_a_path_without_kept_counts_is_shown_as_new():
    """A new path has nothing to be compared with and cannot fail."""
    assert count_comparison.compare([], ROWS) == (["conv: 1,000,000, new"], [])


def test_counts_of_other_versions_or_pins_are_not_compared(kept, monkeypatch, capsys):
    """Another torch version or CPU pin gives exit status 2 with old and new value."""
    content = json.loads(kept.read_text())
    content["settings"]["versions"] |= {"torch": "1.0"}
    content["settings"]["pins"] |= {"ONEDNN_MAX_CPU_ISA": "SSE41"}
    kept.write_text(json.dumps(content))
    status, out, err = run(monkeypatch, capsys, "--against", kept)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"torch is {count_comparison.conditions()['versions']['torch']}, was 1.0" in err
    assert "ONEDNN_MAX_CPU_ISA is AVX, was SSE41" in err


def test_counts_of_another_instruction_set_are_not_compared(kept, monkeypatch, capsys):
    """oneDNN chooses other kernels for SSE4.1 than for AVX, so the counts differ for that reason."""
    monkeypatch.setattr(instructions, "count", lambda paths: (ROWS, USED | {"oneDNN": "Intel SSE4.1"}))
    status, out, err = run(monkeypatch, capsys, "--against", kept)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "oneDNN is Intel SSE4.1, was Intel AVX" in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "is not a file of counts"),
        (b'{"schema": 1, "rows": [], "settings": {}}', "is not a file of counts"),
        (b'{"schema": 1, "rows": [{"path": "conv", "shape": "512"}], "settings": {}}', "is not a file of counts"),
    ],
)
def test_a_file_that_holds_no_counts_is_one_line(tmp_path, monkeypatch, capsys, content, says):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    status, out, err = run(monkeypatch, capsys, "--against", path)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert str(path) in err
    assert says in err


def test_an_unknown_path_is_one_line_with_the_nearest(kept, monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, "--paths", "con")
    assert (status, err) == (2, "no path 'con'; nearest is 'conv'\n")
    monkeypatch.setattr(instructions, "known_paths", lambda: ["pool"])
    status, _, err = run(monkeypatch, capsys, "--against", kept)
    assert (status, err) == (2, f"no path 'conv', which {kept} has; nearest is 'pool'\n")


def test_the_kept_counts_are_of_every_path():
    """A path without a kept count would never fail."""
    import main_paths

    kept = count_comparison.read(ROOT / "benchmarks/results/instructions.json")
    assert [row["path"] for row in kept["rows"]] == list(main_paths.PATHS)


def test_instructions_count_for_the_function_that_spends_them():
    """A hand-written callgrind dump gives each library and kernel its own instructions."""
    dump = """\
desc: Trigger: Client Request: conv
ob=/usr/lib/libpython3.11.so.1.0
fl=???
fn=_PyEval_EvalFrameDefault'2
0 70
cob=/venv/torch/lib/libtorch_cpu.so
cfn=at::add(float)
calls=2 0
0 5000
0 30
ob=/venv/torch/lib/libtorch_cpu.so
fn=at::add(float)
0 5000
ob=???
fn=0x0000000000001000
0 7
fn=0x0000000000001040
0 1
fn=0x0000000000002000
0 20
fn=0x0000000000009000
0 300
totals: 5428
"""
    regions = [[0x1000, 0x1100, "numba: other"], [0x2000, 0x3000, "generated by libraries"]]
    code = {"conv": {"regions": regions, "functions": {str(0x1000): "numba: sample"}}}
    found = callgrind.read_dump(dump.splitlines(), code)
    assert found.name == "conv"
    assert found.parts == {
        "libtorch_cpu": 5000,
        "unknown": 300,
        "interpreter": 100,
        "generated by libraries": 20,
        "numba: sample": 7,
        "numba: other": 1,
    }


SPIN = 'void spin(long rounds) { __asm__ volatile("1: dec %0\\n jnz 1b" : "+r"(rounds)); }'  # two instructions a round

PROGRAM = """
import ctypes, sys
import numba, numpy as np
import callgrind

@numba.njit(cache=True)
def loop(rounds):
    x = 1
    for i in range(rounds):
        x = x * 6364136223846793005 + i
    return x

def adds(rounds):
    for _ in range(rounds):
        np.add(ones, ones, out=total)

ones, total = np.ones(100), np.empty(100)
spin = ctypes.CDLL("./spin.so").spin
calls = int(sys.argv[1])
counter = callgrind.Counter()
for kind, rounds in ((spin, (1000, 301_000)), (loop, (10_240, 20_480, 30_720)), (adds, (100, 200, 300))):
    for many in rounds:
        counter.count(f"{getattr(kind, '__name__')} {many}", lambda: kind(many), calls, warm=20)
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Counts of loops of various lengths, six of each, by name."""
    folder = tmp_path_factory.mktemp("counted")
    try:
        callgrind.prepare(folder)
    except callgrind.MissingTool as error:
        pytest.skip(str(error))
    (folder / "program.py").write_text(PROGRAM)
    (folder / "spin.c").write_text(SPIN)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "spin.c", "-o", "spin.so"], cwd=folder, check=True)
    environment = {**count_comparison.PINS, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "benchmarks")}
    environment["NUMBA_CACHE_DIR"] = "numba"
    program = [sys.executable, "program.py"]
    subprocess.run([*program, "0"], cwd=folder, env=environment, check=True)
    found = defaultdict(list)
    for count in callgrind.run([*program, "6"], folder, environment):
        found[count.name].append(count)
    return found


def least(counts):
    return min(count.total for count in counts)


@pytest.mark.slow
def test_an_added_loop_raises_the_count_exactly(counted):
    """300,000 more iterations of two instructions add exactly 600,000 to the loop's own count."""
    short, long = counted["spin 1000"], counted["spin 301000"]
    assert long[0].parts["spin"] - short[0].parts["spin"] == 2 * 300_000
    assert least(long) - least(short) == pytest.approx(2 * 300_000, abs=1000)  # the interpreter's share is not constant
    numba = [counted[f"loop {rounds}"][0].parts["numba: loop"] for rounds in (10_240, 20_480, 30_720)]
    numpy = [least(counted[f"adds {rounds}"]) for rounds in (100, 200, 300)]
    more, still_more = (after - before for before, after in itertools.pairwise(numba))
    assert more == still_more
    assert 10_240 < more < 8 * 10_240  # a multiplication and an addition a round at least, unrolled or not
    more, still_more = (after - before for before, after in itertools.pairwise(numpy))
    assert more == pytest.approx(still_more, rel=0.05)  # the interpreter specialises at times of its own
    assert more > 100 * 100 / 8  # additions of 100 numbers, four or eight at a time


@pytest.mark.slow
def test_equal_work_counts_equally(counted):
    """Six counts of equal work differ by at most 0.5%; numba's loops not at all."""
    for name, counts in counted.items():
        totals = sorted(count.total for count in counts)
        assert len(totals) == 6, name
        assert totals[2] - totals[0] <= 0.005 * totals[0], name
    for rounds in (10_240, 20_480, 30_720):
        assert len({count.parts["numba: loop"] for count in counted[f"loop {rounds}"]}) == 1
