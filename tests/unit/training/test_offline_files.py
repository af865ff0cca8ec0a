"""Offline files of wandb's that a killed run left."""

import struct

from dcnlab.training.loggers.wandb_file import mend


def record(text, kind=1):
    """A record in LevelDB's log format; its checksum is not looked at."""
    return struct.pack("<IHB", 0, len(text), kind) + text


def test_a_record_that_is_cut_off_is_removed(tmp_path):
    """Whole records stay, also one over two blocks; a file without the run's record goes with its folder."""
    whole = b":W&B\x00\x00\x01"[:7] + record(b"version") + record(b"run")
    at = len(whole)
    long = record(b"x" * (32768 - at - 7), kind=2) + record(b"y", kind=4)
    wanted = {"kept": whole, "cut": whole, "long": whole + long}
    files = {"kept": whole, "cut": whole + record(b"row")[:-1], "long": whole + long, "empty": whole[:7]}
    for name, data in files.items():
        (tmp_path / f"offline-run-1-{name}").mkdir()
        (tmp_path / f"offline-run-1-{name}/run-{name}.wandb").write_bytes(data)
    mend(tmp_path)
    assert not (tmp_path / "offline-run-1-empty").exists()
    for name, data in wanted.items():
        assert (tmp_path / f"offline-run-1-{name}/run-{name}.wandb").read_bytes() == data
