"""Splitting a loop over torch's threads on a CPU."""

import os
import threading

import pytest
import torch

from dcnlab.ops.cpu import threads
from dcnlab.ops.cpu.threads import split

WAYS = pytest.param(True, id="pool"), pytest.param(False, id="torch's team")


@pytest.fixture(params=WAYS)
def _either_way(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(threads, "_team", lambda: None)
    elif threads._team() is None:
        pytest.skip("torch runs without OpenMP here")


def parts(count: int, wanted: int, monkeypatch: pytest.MonkeyPatch, smallest: int = 1) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: wanted)
    split(lambda first, last: found.append((first, last)), count, smallest)
    return sorted(found)


def covered(count: int) -> list[int]:
    found: list[int] = []
    split(lambda first, last: found.extend(range(first, last)), count)
    return sorted(found)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize(
    ("count", "wanted", "smallest", "expected"),
    [
        (0, 2, 1, []),
        (1, 2, 1, [(0, 1)]),
        (7, 1, 1, [(0, 7)]),
        (7, 2, 1, [(0, 3), (3, 7)]),
        (7, 3, 1, [(0, 2), (2, 4), (4, 7)]),
        (3, 9, 1, [(0, 1), (1, 2), (2, 3)]),
        (31, 2, 16, [(0, 31)]),
        (32, 8, 16, [(0, 16), (16, 32)]),
    ],
)
def test_parts_are_contiguous_and_cover_the_range_once(monkeypatch, count, wanted, smallest, expected):
    assert parts(count, wanted, monkeypatch, smallest) == expected


@pytest.mark.usefixtures("_either_way")
def test_parts_run_at_the_same_time_on_threads_of_their_own(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    meeting, seen = threading.Barrier(2, timeout=20), set()

    def work(first: int, last: int) -> None:
        meeting.wait()  # breaks unless both are here
        seen.add(threading.get_native_id())

    split(work, 2)
    assert len(seen) == 2


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_any_part_reaches_the_caller(monkeypatch, failing):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work(first: int, last: int) -> None:
        if first == failing:
            raise ZeroDivisionError(f"part {first}")

    with pytest.raises(ZeroDivisionError, match=f"part {failing}"):
        split(work, 2)
    split(lambda first, last: None, 2)  # and the next call works


@pytest.mark.usefixtures("_either_way")
def test_calls_from_several_threads_do_not_disturb_one_another(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    totals = [0] * 4

    def caller(number: int) -> None:
        for _ in range(50):
            totals[number] += covered(10) == list(range(10))

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert totals == [50] * 4


@pytest.mark.usefixtures("_either_way")
def test_a_forked_process_does_the_whole_work(monkeypatch):
    # OpenMP's threads stay behind in the parent; waiting for them would take for ever.
    assert parts(10, 2, monkeypatch) == [(0, 5), (5, 10)]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, bytes(covered(10)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        assert list(answer.read()) == list(range(10))
    assert os.waitpid(child, 0)[1] == 0
