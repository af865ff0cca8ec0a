"""`dcnlab completion`: the words that a shell offers, asked of the shell itself."""

import re
import shutil
import subprocess

import pytest

from dcnlab.cli import main

ASK = """
complete_line() {  # prints what is offered for the last of some words
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _dcnlab
    echo "${COMPREPLY[*]}"
}
"""

OFFERED = {
    "dcnlab swe": "sweep",
    "dcnlab --ver": "--version",
    "dcnlab fit segmentation/deeplab_v": "segmentation/deeplab_voc segmentation/deeplab_voc_authors",
    "dcnlab fit detection/rfcn_voc model.deform_l": "model.deform_layers=",
    "dcnlab fit detection/rfcn_voc data.root = ru": "runs",
    "dcnlab fit detection/rfcn_voc data.root = runs model.rp": " ".join(
        f"model.rpn.{key}=" for key in "scales ratios hidden_channels sampled candidates proposals border".split()
    ),
    "dcnlab fit detection/base": "",
    "dcnlab fit detection/nothing": "",
    "dcnlab sweep table5_rfcn_c": "table5_rfcn_coco",
    "dcnlab sweep --jobs 2 related_": "related_work",
    "dcnlab sweep --trial": "--trial-minutes",
    "dcnlab sweep quickstart --out ru": "runs",
    "dcnlab evaluate ru": "runs",
    "dcnlab evaluate runs test.fl": "test.flip=",
    "dcnlab list ex": "experiments",
    "dcnlab conf": "config",
    "dcnlab config segmentation/deeplab_ci": "segmentation/deeplab_cityscapes segmentation/deeplab_cityscapes_authors",
    "dcnlab config detection/rfcn_voc model.deform_l": "model.deform_layers=",
    "dcnlab config detection/rfcn_voc --k": "--keys",
    "dcnlab completion ''": "bash zsh fish",
    "dcnlab data ''": "preview",
    "dcnlab score segmentation --ig": "--ignore",
}
"""What bash offers for the last word, by the words so far, as bash splits them."""


@pytest.fixture
def script(capsys):
    """The script of a shell."""

    def print_script(shell):
        main.app(["completion", shell], standalone_mode=False)
        return capsys.readouterr().out

    return print_script


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_offers_commands_experiments_keys_and_files(script, tmp_path):
    """Bash's own function offers each kind of word where it belongs."""
    (tmp_path / "runs").mkdir()
    program = script("bash") + ASK + "\n".join(f"complete_line {words}" for words in OFFERED)
    command = ["bash", "--norc", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert dict(zip(OFFERED, done.stdout.splitlines(), strict=True)) == OFFERED


def test_zsh_runs_the_function_of_bash(script):
    """The scripts differ only in what makes zsh ready for bash's function."""
    assert script("zsh").endswith(script("bash").partition("_dcnlab_experiments")[2])
    assert "bashcompinit" in script("zsh")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_that_is_here_reads_its_script(script, shell):
    """The shell finds no error of syntax."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    subprocess.run([shell, "--no-execute" if shell == "fish" else "-n"], input=script(shell), text=True, check=True)


def test_fish_has_a_line_for_every_command_and_key(script):
    """Each command is offered with its help, and the keys follow an experiment."""
    lines = script("fish").splitlines()
    names = [line.split(" -a ")[1].split()[0] for line in lines if "__fish_use_subcommand" in line and " -a " in line]
    assert {"fit", "sweep", "list", "completion"} <= set(names)
    keys = [line for line in lines if re.search(r"seen_subcommand_from fit'.* -a .*model\.deform_layers=", line)]
    assert len(keys) == 1
