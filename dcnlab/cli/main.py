"""`dcnlab`: its commands, and how errors become exit statuses."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from dcnlab import __version__
from dcnlab.cli import ablate, analyse, completion, config_keys, listing, predict, preview, score, train, usage
from dcnlab.cli.examples import epilog
from dcnlab.io import memory
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line, say, show_warnings_visibly
from dcnlab.training.distributed import parent_death, slurm_variables
from dcnlab.training.outcome import Interrupted, PeerFailed, begin_again

app = typer.Typer(
    help="Deformable convolutional networks: train, sweep and compare ablations.",
    epilog=epilog(""),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Look at what networks are trained on.", epilog=epilog("data"), no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(score.app, name="score")

_AGENT_FLAG = re.compile(r"--(?!allow=)[A-Za-z_][A-Za-z0-9_.]*=")
_BEGIN_AGAIN = ("fit", "resume", "evaluate", "sweep")
"""Commands that take so long that an interrupted one names itself again."""
_INTERRUPTED = 130
"""What typer makes of Ctrl-C; commands themselves leave with it by `SystemExit`."""
OTHERS_SECONDS = 10.0
"""That a rank waits for rank 0 to report an error, before it reports it itself."""


def _version(asked: bool) -> None:
    if asked:
        say(f"dcnlab {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version)] = False,
) -> None:
    pass


def check_machine() -> None:
    """Versions, GPUs, operators that work, kernels that compile, and missing packages."""
    from dcnlab.cli import doctor

    raise typer.Exit(doctor.run())


for name, command in (
    ("fit", train.fit),
    ("evaluate", train.evaluate),
    ("resume", train.resume),
    ("predict", predict.predict),
    ("sweep", ablate.run_sweep),
    ("table", ablate.tabulate),
    ("report", ablate.write_report),
    ("complexity", analyse.count_cost),
    ("dilation", analyse.measure_dilation),
    ("robustness", analyse.measure_robustness),
    ("visualize", analyse.visualize),
    ("export", train.export_weights),
    ("list", listing.list_names),
    ("config", config_keys.print_keys),
    ("convert", train.convert_weights),
    ("recipe", analyse.print_recipe),
    ("doctor", check_machine),
    ("completion", completion.print_script),
):
    app.command(name, epilog=epilog(name))(command)
data.command("preview", epilog=epilog("data preview"))(preview.write_preview)


def main() -> None:
    """Run the command line: exit status 2 and one line for what the user can mend, a traceback for our own bugs."""
    # Set before torch is imported: the run reports a dead rank itself, so torch's store need not warn of it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    parent_death.hold()
    slurm_variables.forget_task()
    show_warnings_visibly()
    usage_error = typer.BadParameter.__mro__[1]  # typer brings its own click, or takes the installed one
    try:
        status = app(_words(), prog_name="dcnlab", standalone_mode=False)
    except ConfigError as error:
        _fail(str(error))
    except PeerFailed as error:
        _fail(str(error), 1)
    except OSError as error:  # a path that cannot be read or written, a full disk
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(f"{where}{error.strerror or error}{usage.after_room(error)}")
    except (MemoryError, RuntimeError) as error:
        if not memory.is_out(error):
            raise
        detail = str(error).partition("\n")[0]
        detail = f" ({detail})" if detail else ""
        _fail(f"there is not enough memory{detail}; smaller images or batches need less")
    except (typer.Abort, KeyboardInterrupt):
        status = _INTERRUPTED
    except usage_error as error:  # type: ignore[misc]
        _fail(usage.line(error))
    except Interrupted as error:
        say(error.advice(sys.argv[1:]), file=sys.stderr)
        _end_as_agents_want(error.number)
        sys.exit(130)
    except Exception as error:  # a bug, whose traceback is to come
        if _is_rank():
            _fail_as_rank(f"{type(error).__name__}: {one_line(error)}", 1, lambda: None)
        raise
    if status == _INTERRUPTED and sys.argv[1] in _BEGIN_AGAIN:  # before a run began
        say(begin_again(sys.argv[1:]), file=sys.stderr)
    sys.exit(status)


def _words() -> list[str]:
    """The words of the command line; under a wandb agent the `--KEY=VALUE` of its `${args}` become KEY=VALUE."""
    words = sys.argv[1:]
    if not os.environ.get("WANDB_SWEEP_ID") or words[:1] != ["fit"]:
        return words
    return [word.removeprefix("--") if _AGENT_FLAG.match(word) else word for word in words]


def _end_as_agents_want(number: int | None) -> None:
    """Under a wandb agent, end by the signal that stopped the run: an exit status would count as the trial's failure.

    A few failures in a row shut an agent down.
    """
    if number is None or not os.environ.get("WANDB_SWEEP_ID"):
        return
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _fail(text: str, status: int = 2) -> None:
    line = " ".join(text.split())

    def tell() -> None:
        say(f"dcnlab: {line}", file=sys.stderr, flush=True)

    if _is_rank():
        _fail_as_rank(line, status, tell)
    else:
        tell()
    sys.exit(status)


def _is_rank() -> bool:
    """Whether a launcher may have started this process as one of several ranks."""
    return any(name in os.environ for name in ("RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_STEP_ID"))


def _fail_as_rank(line: str, status: int, tell: Callable[[], None]) -> None:
    """Print an error once for all ranks of a run, and end those that wait for this one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if os.environ.get("RANK", "0") != "0":  # rank 0 most likely prints the same, and then torchrun ends the others
            time.sleep(OTHERS_SECONDS)
        tell()
        return
    from dcnlab.training.distributed import early_failure

    early_failure.report(line, status, tell)
