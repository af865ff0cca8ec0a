"""Commands that run and compare ablations: sweep, table, report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dcnlab.cli.output import Overrides, print_notes
from dcnlab.config.value_checks import choose
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import say


def run_sweep(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP.yaml")],
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(help="Folder of the runs.", show_default="runs")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trials at once.", show_default="one a GPU or core")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Start no more trials than this.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Stop starting trials that cannot finish in these minutes, judged by earlier trials."),
    ] = None,
    trial_minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="End a trial that runs longer; it counts as failed, and can be resumed."),
    ] = None,
    launcher: Annotated[str, typer.Option(help="local, or slurm: as jobs of a cluster.")] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of sbatch for every trial: partition=NAME; any number."),
    ] = None,
) -> None:
    """Run the trials of a wandb sweep file that are missing, without a server."""
    choose("--launcher", launcher, ("local", "slurm"))
    if slurm and launcher != "slurm":
        raise ConfigError(f"--slurm {slurm[0]}: there are no jobs to give it to; state --launcher slurm")
    for option, value in (("--minutes", minutes), ("--trial-minutes", trial_minutes)):
        if value is not None and launcher == "slurm":
            raise ConfigError(f"{option} {value:g} is for trials of this machine; SLURM's own is --slurm time=MINUTES")
        if value is not None and not value < float("inf"):
            raise ConfigError(f"{option} is {value:g}; it must be a number of minutes")
    from dcnlab.ablations.sweeps import run as trials
    from dcnlab.ablations.sweeps.stopping import Stopped

    try:
        status = trials.run(sweep, out, jobs, limit, minutes, overrides or [], launcher, slurm or [], trial_minutes)
    except Stopped as stopped:
        say(f"stopped by {stopped}; continue with: {shlex.join(['dcnlab', *sys.argv[1:]])}", file=sys.stderr)
        sys.exit(128 + stopped.number)
    raise typer.Exit(status)


def tabulate(
    name: Annotated[str, typer.Argument(metavar="NAME|SWEEP.yaml")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[DIR | KEY=VALUE]...", show_default=False)] = None,
    runs: Annotated[list[Path] | None, typer.Option("--runs", metavar="DIR...", show_default="runs")] = None,
    wandb: Annotated[
        str | None,
        typer.Option(metavar="ENTITY/PROJECT[/SWEEP]", help="Take runs from wandb's server, in place of `runs`."),
    ] = None,
    to_wandb: Annotated[
        str | None,
        typer.Option(metavar="ENTITY/PROJECT", help="Send the table and its bar charts to wandb's server, too."),
    ] = None,
    any_code: Annotated[bool, typer.Option("--any-code", help="Let runs of different code share rows.")] = False,
    block: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Consecutive test images that the interval draws together, for video."),
    ] = 1,
    power: Annotated[
        bool, typer.Option("--power", help="Add how many seeds would show one point of difference.")
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="The row to compare with, by a setting; any number."),
    ] = None,
    no_paper: Annotated[
        bool, typer.Option("--no-paper", help="Leave out the paper's table 1 below networks that it lacks.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json")] = "rich",
) -> None:
    """Compare runs: mean and spread over seeds, differences from the plain network, next to the paper's values; cost.

    A difference has a 95% interval, drawn over seeds and test images, and says "no conclusion" where it covers zero.
    NAME is the name of runs, or table1, table2, table3, table5: the paper's tables, filled from your runs.
    """
    from dcnlab.ablations.tables import build_table, table
    from dcnlab.ablations.tables.comparison import Options
    from dcnlab.config.overrides import parse_override

    choose("--format", form, table.FORMATS)
    words = more or []
    overrides = [word for word in words if "=" in word and not Path(word).is_dir()]
    roots = [*(runs or []), *(Path(word) for word in words if word not in overrides)]
    if not roots and wandb is None:
        roots = [Path("runs")]
    options = Options(block, power, tuple(map(parse_override, against or [])))
    compared = build_table.assemble(name, roots, overrides, any_code, wandb, options)
    compared.orientation = compared.orientation and not no_paper
    if form == "rich":
        table.show(compared)
    else:
        say(table.render(compared, form), block=True)
    print_notes(compared.notes)
    if to_wandb is not None:
        from dcnlab.ablations.tables import wandb_table

        say(f"sent to {wandb_table.send(compared, to_wandb)}", file=sys.stderr)


def write_report(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", show_default="DIR/report.html")] = None,
    any_code: Annotated[bool, typer.Option("--any-code", help="Let runs of different code share rows.")] = False,
) -> None:
    """Write one HTML page on all runs in a folder, which needs no network: tables, curves, costs; prints the file."""
    from dcnlab.ablations.report import page

    say(page.write(folder, out, any_code))
