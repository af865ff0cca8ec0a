"""Running compiled loops in parts, on torch's threads on a CPU."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from command_line import environment
from numba import carray
from processes import GUARD

from dcnlab.ops.cpu import openmp
from dcnlab.ops.cpu.loop_table import NUMBER, Table
from dcnlab.ops.cpu.numba_callbacks import array1, next_part
from dcnlab.ops.cpu.openmp import parts_of, run
from dcnlab.ops.jit import callback

WAYS = pytest.param(True, id="pool"), pytest.param(False, id="torch's team")


TIMES = Table(times=1)
_TIMES = TIMES.of_loop()


def _count(address):
    table = carray(address, (1,), _TIMES)[0]
    done = array1(table.times, np.int64)
    while True:
        part = next_part(address)
        if part >= table.parts:
            return
        done[part] += 1


def _meet(address):
    """Each thread takes one part, says so, and waits until all have: for ever where one thread takes them in turn."""
    table = carray(address, (1,), _TIMES)[0]
    here = array1(table.times, np.int64)
    part = next_part(address)
    if part >= table.parts:
        return
    here[part] = 1
    while True:
        all_here = True
        for other in range(table.parts):
            all_here = all_here and here[other] != 0
        if all_here:
            return


@pytest.fixture(scope="module")
def count():
    """A loop that counts how often each of its parts is done."""
    return callback(_count)


@pytest.fixture(params=WAYS)
def _either_way(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(openmp, "_team", lambda: None)
    elif openmp._team() is None:
        pytest.skip("torch runs without OpenMP here")


def test_a_table_takes_its_fields_by_name_and_refuses_others():
    """The numbers stand in the fields' order, whatever the order of the arguments; a field that is missing is named."""
    inner = Table.of_numbers(("height", "width"))
    table = Table(count=NUMBER, sizes=inner, map=2)
    tensor = torch.zeros(3, 5)
    assert table.numbers(map=tensor, count=7, sizes=(8, 9)) == [7, 8, 9, tensor.data_ptr(), 3, 5]
    record = np.array([0, 4, *table.numbers(map=tensor, count=7, sizes=(8, 9))]).view(table.of_loop())[0]
    assert (record["parts"], record["count"], record["sizes"]["width"], record["map"]["n1"]) == (4, 7, 9, 5)
    with pytest.raises(TypeError, match=r"^the fields are count, sizes, map, got count, map$"):
        table.numbers(count=7, map=tensor)
    with pytest.raises(TypeError, match=r"^map: expected 2 axes, got shape \(3,\)$"):
        table.numbers(map=tensor[:, 0], count=7, sizes=(8, 9))


def done(count, parts: int) -> list[int]:
    times = torch.zeros(parts, dtype=torch.int64)
    run(count, TIMES.numbers(times=times), parts)
    return times.tolist()


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("wanted", [1, 2, 3, 9])
@pytest.mark.parametrize("parts", [1, 2, 3, 50])
def test_every_part_is_done_once(monkeypatch, count, wanted, parts):
    """For more parts than threads and fewer, with OpenMP and with numba callbacks."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: wanted)
    assert done(count, parts) == [1] * parts


@pytest.mark.parametrize(
    ("number", "wanted", "smallest", "expected"),
    [(0, 2, 1, 1), (1, 2, 1, 1), (7, 1, 1, 1), (7, 3, 1, 3), (3, 9, 1, 3), (31, 2, 16, 1), (32, 8, 16, 2)],
)
def test_a_loop_has_one_part_per_thread_of_a_minimum_size(monkeypatch, number, wanted, smallest, expected):
    """Worked cases: small loops take fewer parts than threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: wanted)
    assert parts_of(number, smallest) == expected


@pytest.mark.usefixtures("_either_way")
def test_parts_run_at_the_same_time(monkeypatch):
    """Two parts that wait for each other would hang if they ran in turn."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert done(callback(_meet), 2) == [1, 1]


@pytest.mark.usefixtures("_either_way")
def test_loops_release_the_python_lock(monkeypatch):
    """The loop's second part is run by another Python thread, which needs the GIL."""
    # The loop waits for its second part, which another thread of Python does: with the global lock held, for ever.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    here, meet = torch.zeros(2, dtype=torch.int64), callback(_meet)
    table = np.array((0, 2, *TIMES.numbers(times=here)), np.int64)
    other = threading.Thread(target=lambda: (time.sleep(0.2), openmp._LOOP(meet)(table.ctypes.data)))
    other.start()
    openmp._LOOP(meet)(table.ctypes.data)
    other.join()
    assert here.tolist() == [1, 1]


@pytest.mark.usefixtures("_either_way")
def test_calls_from_several_threads_do_not_disturb_one_another(monkeypatch, count):
    """Four Python threads start 50 loops each; no part is lost or done twice."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    totals = [0] * 4

    def caller(number: int) -> None:
        for _ in range(50):
            totals[number] += done(count, 10) == [1] * 10

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert totals == [50] * 4


@pytest.mark.usefixtures("_either_way")
def test_a_forked_process_does_all_parts_itself(monkeypatch, count):
    """OpenMP's threads stay in the parent; waiting for them would take forever."""
    # OpenMP's threads stay behind in the parent; waiting for them would take for ever.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert done(count, 2) == [1, 1]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, bytes(done(count, 10)))
        finally:  # an error here must not go on as a second run of the tests
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        assert list(answer.read()) == [1] * 10
    assert os.waitpid(child, 0)[1] == 0


FORK = """
import os, sys, time
import torch
from dcnlab.ops import deform_conv2d
torch.set_num_threads(2)
matrix = torch.ones(600, 600)
images, weight, offset = torch.ones(2, 8, 32, 32), torch.ones(8, 8, 3, 3), torch.zeros(2, 18, 32, 32)
def work():
    return deform_conv2d(images, offset, weight, padding=1)[0, 0, 5, 5].item()
torch.mm(matrix, matrix)
if sys.argv[1] == "used":
    work()
child = os.fork()
if child == 0:
    print(torch.get_num_threads(), work(), torch.mm(matrix, matrix)[0, 0].item(), flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("before", ["used", "unused"])
def test_operators_do_not_hang_in_a_forked_process(before):
    """After torch used its OpenMP threads, a fork has none of them; a parallel region would wait forever."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", FORK, before],  # Python 3.12 warns of it
        env=environment(OMP_NUM_THREADS="2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=GUARD)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, err) == (0, "")
    assert out.split() == ["1", "72.0", "600.0"]
