"""Experiment: the files of an experiment, read once, and the config that a sweep's parameters and key=value give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dcnlab.config import outside, packaged
from dcnlab.config.agent_parameters import split_agent_parameters, sweeps_own
from dcnlab.config.experiment_files import RUN_CONFIG, extends_chain, read_parameters
from dcnlab.config.keys import flatten, parameters_of
from dcnlab.config.overrides import COMMAND_LINE, is_override, parse_override, set_keys
from dcnlab.config.schema import Config
from dcnlab.config.tree import checked, drop_expected_of_another_run, new_tree, plain
from dcnlab.config.unread import Stated


class Experiment:
    """An experiment file with its `extends:` chain; the trials of a sweep share one.

    Args:
        experiment: path or packaged name of the file.

    Raises:
        ConfigError: anything in the files that the user can mend.
    """

    def __init__(self, experiment: str) -> None:
        self.path = packaged.find("experiments", experiment)
        self._chain = extends_chain(self.path)

    def config(
        self,
        args: Sequence[str] = (),
        parameters: dict[str, Any] | None = None,
        allow: Sequence[outside.Allowed] = (),
        default_root: str | None = None,
    ) -> Config:
        """The checked config; see `load.load_experiment` for the arguments and errors."""
        words = [arg for arg in args if is_override(arg)]
        layers = [("sweep", parameters_of(parameters or {}))]
        layers += [(arg, parameters_of(sweeps_own(read_parameters(arg)))) for arg in args if not is_override(arg)]
        if parameters is None and len(words) == len(args):
            from_agent, words = split_agent_parameters(words)
            layers.append(("the sweep's parameters", parameters_of(sweeps_own(from_agent))))
        stated = Stated()
        tree = self._read(stated)
        as_stated = plain(tree) if tree.test.expected else None
        # The config.yaml of a sweep's run is an experiment too: a run of it has the same parameters.
        swept = {key: OmegaConf.select(tree, key) for key in tree.sweep}
        for source, layer in layers:
            set_keys(tree, layer, source)
            stated.note(tree, layer, source)
            swept |= layer

        def before() -> DictConfig:
            """The tree without the command line, made again."""
            again = self._read(Stated())
            for source, layer in layers:
                set_keys(again, layer, source)
            return again

        overrides = dict(map(parse_override, words))
        for key, value in overrides.items():
            set_keys(tree, {key: value}, COMMAND_LINE)
        stated.note(tree, overrides, COMMAND_LINE)
        if default_root is not None and tree.data.root is None and tree.data.name != "digits":
            tree.data.root = default_root
        # A parameter that the command line overrules is recorded as it was used.
        used = dict(flatten(overrides))
        tree.sweep = {key: used.get(key, value) for key, value in swept.items()}
        drop_expected_of_another_run(tree, as_stated)
        config = checked(tree, str(self.path), before if words else None)
        stated.check(config)
        by_user = [dict(flatten(layer)) for file, layer in self._chain if file.name != RUN_CONFIG]
        by_user += [used, *(layer for _, layer in layers)]
        named = [name for layer in by_user for name in outside.names_in(layer)]
        outside.admit(config, [*allow, *named], str(self.path))
        return config

    def _read(self, stated: Stated) -> DictConfig:
        """The typed tree of the files, whose keys `stated` notes; one that states no name is called by its own.

        A run's config.yaml holds every key, also those that an earlier version let pass: nothing of it is stated.
        """
        tree = new_tree()
        for file, layer in self._chain:
            tree.test.expected = {}  # of the file that this one extends
            set_keys(tree, layer, str(file))
            if file.name != RUN_CONFIG:
                stated.note(tree, layer, str(file))
        if not any("name" in layer for _, layer in self._chain):
            set_keys(tree, {"name": self.path.stem}, str(self.path))
        return tree
