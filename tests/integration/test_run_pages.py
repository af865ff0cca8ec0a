"""tools/run_pages.py: what it runs of the pages and what it skips, with stub runners and no training."""

import os
import re

import page_data
import page_plan
import page_runs
import pytest
import run_pages
from page_commands import PAGES, commands_of

PLACEHOLDER = re.compile(r"\b(RUN|SWEEP|ENTITY|PROJECT|EXPERIMENT|FOLDER|DIR|MINE|NAME/ID2?|[A-Z]{3,}(?==))\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_a_page_is_run_or_has_a_reason(page):
    """The plan keeps every command in its order; a placeholder has data or runs in its place."""
    steps = page_plan.plan(page)
    assert len(steps) == len(commands_of(page))
    tables = (*page_data.DATA, *page_runs.TRAINED)
    for step, words in zip(steps, commands_of(page), strict=True):
        assert words[0] in step.command
        if step.reason is None:
            assert step.words[0] in ("dcnlab", "python", "bash"), step
            known = any(re.search(pattern, step.command) for pattern in tables)
            assert known or not PLACEHOLDER.search(" ".join(step.words)), step
        else:
            assert len(step.reason) > 5


def test_commands_are_found_in_the_order_printed(tmp_path):
    """Blocks and the text between them take turns; assignments in a block of Python are no commands."""
    page = tmp_path / "page.md"
    page.write_text(
        "`make docs`\n\n    dcnlab list  # names\n    a = b(c)\n\nThen `pip install .`\n\n```bash\npython x.py\n```\n"
    )
    assert [" ".join(words) for words in commands_of(page)] == [
        "make docs",
        "dcnlab list",
        "pip install .",
        "python x.py",
    ]


def test_trainings_and_sweeps_are_shortened():
    """A fit takes two steps, a sweep one trial; a named backbone stays, and others become slim."""
    assert "trainer.max_steps=2" in page_plan.shortening("dcnlab fit detection/quickstart")
    assert page_plan.shortening("dcnlab sweep quickstart --jobs 2")[:2] == ("--limit", "1")
    named = page_plan.shortening("dcnlab fit detection/rfcn_voc data.root=VOC model.backbone.name=resnet18")
    assert "model.backbone.name=resnet10_slim" not in named
    assert "model.backbone.name=resnet10_slim" in page_plan.shortening("dcnlab fit detection/rfcn_voc data.root=VOC")
    assert page_plan.shortening("dcnlab list models") == page_plan.shortening("make docs") == ()


def test_a_pattern_that_no_page_has_is_found():
    """No entry of the tables is left over today, and one that is would be named."""
    assert page_plan.stale() == []
    assert page_plan.stale(patterns=[r"^pip ", r"^dcnlab fly "]) == [r"^dcnlab fly "]


def test_a_stale_reason_gives_status_1(tmp_path, monkeypatch, capsys):
    """The error names the pattern."""
    page = tmp_path / "page.md"
    page.write_text("`dcnlab doctor --help`\n")
    assert run_pages.main([str(page)], lambda words, folder: (0, "")) == 0
    monkeypatch.setitem(page_plan.SKIPPED, r"^dcnlab fly ", "needs wings")
    assert run_pages.main([str(page)], lambda words, folder: (0, "")) == 1
    assert "no page has a command like '^dcnlab fly '" in capsys.readouterr().err


def test_a_failing_command_gives_status_1_and_its_last_line(tmp_path, capsys):
    """The commands after it still run, in one folder; a skipped one does not."""
    page = tmp_path / "page.md"
    page.write_text("    dcnlab doctor --wrong\n    pip install .\n    dcnlab list models\n")
    calls = []

    def runner(words, folder):
        calls.append((" ".join(words), folder))
        return (2, "Usage: dcnlab\nNo such option: --wrong\n\n") if "--wrong" in words else (0, "")

    assert run_pages.main([str(page)], runner) == 1
    assert [words for words, _ in calls] == ["dcnlab doctor --wrong", "dcnlab list models"]
    assert calls[0][1] == calls[1][1]
    printed = capsys.readouterr()
    assert printed.err == "Usage: dcnlab\n"
    lines = [line.split(" | ") for line in printed.out.splitlines() if line.startswith("page.md")]
    assert [(line[1], line[3]) for line in lines] == [
        ("dcnlab doctor --wrong", "FAILED: No such option: --wrong"),
        ("pip install .", "skipped: needs a network"),
        ("dcnlab list models", "ran"),
    ]


def test_a_run_that_cannot_be_trained_fails_its_command(tmp_path, capsys):
    """`dcnlab evaluate RUN` needs a run: its training's error is the command's."""
    page = tmp_path / "page.md"
    page.write_text("    dcnlab evaluate RUN test.flip=true\n")
    assert run_pages.main([str(page)], lambda words, folder: (1, "no memory")) == 1
    assert "FAILED: the run that it reads: no memory" in capsys.readouterr().out


def test_the_runner_gives_status_and_output(tmp_path):
    """Both streams are kept, and the last line is the last that is not empty."""
    code = "import sys; print('first', flush=True); print('last', file=sys.stderr); print(); sys.exit(3)"
    status, output = run_pages.run(["python", "-c", code], tmp_path)
    assert status == 3
    assert run_pages.last_lines(output, 1) == ["last"]
    assert run_pages.last_lines(output, 8) == ["first", "last"]


def test_a_command_that_does_not_end_is_killed(tmp_path, monkeypatch):
    """Its children too, which would keep its output open."""
    monkeypatch.setattr(run_pages, "SECONDS", 0.5)
    assert run_pages.run(["bash", "-c", "sleep 60 & sleep 60"], tmp_path) == (1, "has not ended after 0.5 seconds")


def test_a_page_that_is_not_there_is_named(capsys):
    """One line and status 2."""
    with pytest.raises(SystemExit) as ended:
        run_pages.main(["docs/nowhere.md"])
    assert ended.value.code == 2
    assert "docs/nowhere.md is not a file" in capsys.readouterr().err


def test_id_is_the_newest_run_of_that_name(tmp_path):
    """runs/NAME/ID with a name of the page becomes the run that the page trained last."""
    for name in ("a", "b"):
        (tmp_path / "runs/quick" / name).mkdir(parents=True)
        results = tmp_path / "runs/quick" / name / "results.json"
        results.write_text("{}")
        os.utime(results, (0, 1 if name == "a" else 2))
    words = run_pages.with_newest_run(["dcnlab", "evaluate", "runs/quick/ID", "runs/NAME/ID"], tmp_path)
    assert words[2] == "runs/quick/b"
    assert words[3] == "runs/NAME/ID"


def test_a_run_to_resume_is_one_that_was_killed(tmp_path):
    """`dcnlab resume RUN` refuses a finished run; one that trains longer needs a finished run."""
    results = tmp_path / "runs/quick/a/results.json"
    results.parent.mkdir(parents=True)
    results.write_text("{}")
    run_pages.interrupt(["dcnlab", "resume", "runs/quick/a", "trainer.max_steps=4"], tmp_path)
    assert results.exists()
    run_pages.interrupt(["dcnlab", "resume", "runs/quick/a"], tmp_path)
    assert not results.exists()
