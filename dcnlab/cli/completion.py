"""`dcnlab completion`: scripts with which bash, zsh and fish complete commands, options, experiments and config keys.

The scripts hold all words and start no process of ours while a user types.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from dcnlab import __version__
from dcnlab.cli.listing import LISTS
from dcnlab.config import key_texts
from dcnlab.config.value_checks import choose
from dcnlab.io.text import say

KINDS = {"EXPERIMENT": "$_dcnlab_experiments", "SWEEP": "$_dcnlab_sweeps", "KEY=VALUE": "$_dcnlab_keys"}
"""Lists of words that many arguments take, as variables of the shell, by the argument's metavar."""


@dataclasses.dataclass
class Command:
    """A command as a shell sees it."""

    path: str
    """Its words after `dcnlab`, such as `data preview`; empty for `dcnlab` itself."""
    help: str
    """Its help, one sentence."""
    options: dict[str, bool]
    """Its options, and whether a value follows."""
    arguments: list[list[str]]
    """By position, the words to offer, or lists of them (see KINDS); keys may come any number of times."""


def print_script(
    context: typer.Context, shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", show_default=False)]
) -> None:
    """Print a script for tab completion: `eval "$(dcnlab completion bash)"`."""
    choose("SHELL", shell, SCRIPTS)
    say(SCRIPTS[shell](list(commands(context.find_root().command))), block=True)


def commands(command: Any, path: str = "") -> Iterator[Command]:
    """Walk through the command line: a command, then those below it.

    Args:
        command: of typer.
        path: its words after `dcnlab`.
    """
    below = getattr(command, "commands", {})
    options = {"--help": False}
    arguments = [sorted(below)] if below else []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            arguments.append(_offered(parameter.metavar or ""))
        else:
            options |= dict.fromkeys(parameter.opts + parameter.secondary_opts, not parameter.is_flag)
    sentence = re.split(r"[.:;](?:\s|$)", (command.help or "").strip())[0]
    yield Command(path, " ".join(sentence.split()), options, arguments)
    for name, inner in below.items():
        yield from commands(inner, f"{path} {name}".strip())


def _offered(metavar: str) -> list[str]:
    if re.fullmatch(r"\[?[a-z]+(\|[a-z]+)+\]?", metavar):
        return metavar.strip("[]").split("|")
    return [variable for word, variable in KINDS.items() if word in metavar]


def words_of(variable: str) -> list[str]:
    """The words of one of KINDS; of keys, those that a user can set, each with its equals sign."""
    if variable != KINDS["KEY=VALUE"]:
        return list(LISTS[variable.removeprefix("$_dcnlab_")]())
    return [f"{key}=" for key in key_texts.settable()]


def bash(listed: list[Command]) -> str:
    """The script for bash: a function that reads COMP_WORDS and fills COMPREPLY."""
    paths = [command.path for command in listed if command.path]
    groups = sorted({path.split()[0] for path in paths if " " in path})
    joined = "|".join(shlex.quote(path) for path in paths if path not in groups)
    lines = [
        f'# Completion of dcnlab {__version__} for bash: eval "$(dcnlab completion bash)"',
        *(f"{variable[1:]}={shlex.quote(' '.join(words_of(variable)))}" for variable in KINDS.values()),
        "_dcnlab_command() {  # sets options, valued and words of the command in $1, at position $2",
        '    case "$1" in',
        *(line for command in listed for line in _bash_case(command)),
        "    esac",
        "}",
        _BASH_FUNCTION.replace("GROUPS", "|".join(f'" {name}"' for name in groups)).replace("COMMANDS", joined),
    ]
    return "\n".join(lines)


def _bash_case(command: Command) -> list[str]:
    valued = " ".join(option for option, takes_value in command.options.items() if takes_value)
    lines = [f"    {shlex.quote(command.path)})", f"        options={shlex.quote(' '.join(command.options))}"]
    if valued:
        lines.append(f"        valued={shlex.quote(valued)}")
    if command.arguments:
        lines.append('        case "$2" in')
        for position, offered in enumerate(command.arguments):
            pattern = "*" if KINDS["KEY=VALUE"] in offered else str(position)
            lines.append(f'            {pattern}) words="{" ".join(offered)}" ;;')
        lines.append("        esac")
    return [*lines, "        ;;"]


_BASH_FUNCTION = """\
_dcnlab_files() {
    COMPREPLY=($(compgen -f -- "$1"))
    compopt -o filenames 2>/dev/null
}
_dcnlab() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local chosen="" options="" valued="" words="" skip="" position=0 word number
    COMPREPLY=()
    for ((number = 1; number < COMP_CWORD; number++)); do
        word=${COMP_WORDS[number]}
        if [[ -n $skip ]]; then skip=""; continue; fi
        if [[ $word == -* ]]; then
            _dcnlab_command "$chosen" 0
            [[ " $valued " == *" $word "* ]] && skip=yes
            continue
        fi
        case "$chosen $word" in GROUPS) chosen=$word; continue ;; esac
        case "${chosen:+$chosen }$word" in COMMANDS)
            if [[ $position == 0 ]]; then chosen="${chosen:+$chosen }$word"; continue; fi ;;
        esac
        position=$((position + 1))
    done
    options="" valued="" words=""
    _dcnlab_command "$chosen" "$position"
    if [[ $current == "=" || $before == "=" || -n $skip ]]; then
        _dcnlab_files "${current#=}"
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        if [[ -n $chosen && ${#COMPREPLY[@]} == 0 ]]; then _dcnlab_files "$current"; fi
        [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    fi
    return 0
}
complete -F _dcnlab dcnlab"""


def zsh(listed: list[Command]) -> str:
    """The script for zsh, which runs bash's function by its own bashcompinit."""
    ready = "autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit"
    return f"{ready}\n{bash(listed).replace('bash', 'zsh', 2)}"


def fish(listed: list[Command]) -> str:
    """The script for fish: a `complete` line for every command, option and list of names."""
    lines = [f"# Completion of dcnlab {__version__} for fish: dcnlab completion fish | source"]
    for command in listed:
        condition = _fish_condition(command, listed)
        below = [other for other in listed if other.path.rpartition(" ")[0] == command.path and other.path]
        for other in below:
            lines.append(_fish(condition, f"-f -a {other.path.split()[-1]} -d {shlex.quote(other.help)}"))
        for option, takes_value in command.options.items():
            kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            lines.append(_fish(condition, kind + (" -r" if takes_value else "")))
        for word in dict.fromkeys(word for offered in command.arguments for word in offered if not below):
            values = words_of(word) if word in KINDS.values() else [word]
            lines.append(_fish(condition, f"-a {shlex.quote(' '.join(values))}"))
    return "\n".join(lines)


def _fish_condition(command: Command, listed: list[Command]) -> str:
    if not command.path:
        return "__fish_use_subcommand"
    below = [other.path.split()[-1] for other in listed if other.path.startswith(f"{command.path} ")]
    seen = [f"__fish_seen_subcommand_from {word}" for word in command.path.split()]
    return "; and ".join([*seen, *([f"not __fish_seen_subcommand_from {' '.join(below)}"] if below else [])])


def _fish(condition: str, what: str) -> str:
    return f"complete -c dcnlab -n {shlex.quote(condition)} {what}"


SCRIPTS: dict[str, Callable[[list[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
"""For each shell, the function that writes its script."""
