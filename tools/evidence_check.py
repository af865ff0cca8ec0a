"""Whether the kept runs are current: one trial of each sweep in evidence/ is trained again, and must score the same.

    python tools/evidence_check.py                            every sweep; make evidence-check
    python tools/evidence_check.py quickstart related_work    these only

The trial is the shortest one that has a deformable layer, or the shortest of all. Equal means equal to the last bit:
with one thread, a CPU repeats a training exactly. Another make of CPU or another torch rounds otherwise. So the check
first compares a few sums of torch with those of the machine that trained the evidence.

Exit status: 0 all are current; 1 some are not, or come from files that were in no commit; 3 this machine cannot tell.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.functional import batch_norm, conv2d

from dcnlab.ablations.tables import run_record
from dcnlab.ablations.tables.run_record import Record
from dcnlab.io import json_file
from dcnlab.io.atomic import write_whole
from dcnlab.training.run_folder import RunFolder

HERE = Path(__file__).resolve().parents[1]
KEPT = HERE / "evidence"
ROUNDING = KEPT / "rounding.json"
"""What `rounding` gave on the machine that trained the evidence, by torch's version."""


def rounding() -> str:
    """A hash of convolutions, products and their gradients, all torch's own: equal where a machine rounds alike."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = torch.Generator().manual_seed(0)
        digest = hashlib.sha256()
        for channels, size in ((3, 28), (16, 14), (96, 30)):
            images = torch.randn(4, channels, size, size, generator=generator).requires_grad_()
            weight = torch.randn(32, channels, 3, 3, generator=generator).requires_grad_()
            maps = batch_norm(conv2d(images, weight, padding=1), None, None, training=True).relu()
            scores = maps.flatten(2).mean(2) @ torch.randn(32, 10, generator=generator)
            scores.logsumexp(1).sum().backward()
            for values in (scores, images.grad, weight.grad):
                assert values is not None
                digest.update(values.detach().numpy().tobytes())
        return digest.hexdigest()
    finally:
        torch.set_num_threads(threads)


def shortest(records: Sequence[Record]) -> Record:
    """The trial that is trained again: of those with a deformable layer, if there are any, the shortest."""
    deformable = [record for record in records if record.settings["model.deform_layers"]]
    return min(deformable or records, key=lambda record: record.results["cost"]["train_seconds"])


def scores_now(kept: Record, out: Path) -> dict[str, float]:
    """The scores of a kept run's config, trained anew in a fresh process.

    Raises:
        subprocess.CalledProcessError: the training failed; its messages stand on stderr.
    """
    command = [sys.executable, "-m", "dcnlab", "fit", str(kept.folder / "config.yaml"), f"out={out}", "id=again"]
    subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.DEVNULL)
    return RunFolder(out / kept.name / "again").read_results()["metrics"]  # type: ignore[index]  # it has finished


def without_commit(records: Sequence[Record]) -> list[str]:
    """The folders of runs that were trained from files that no commit holds."""
    return [
        str(record.folder.relative_to(KEPT))
        for record in records
        if (record.results["environment"]["git"] or "-dirty").endswith("-dirty")
    ]


def check(name: str, records: Sequence[Record], train: Callable[[Record, Path], dict[str, float]] = scores_now) -> bool:
    """Train one trial of a sweep again by `train`, print both scores, and say whether all of them are equal."""
    kept = shortest(records)
    trial = " ".join(f"{key}={value}" for key, value in kept.results["parameters"].items()) or kept.folder.name
    print(f"{name}: {trial}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        now = train(kept, Path(folder))
    before = kept.results["metrics"]
    differing = [metric for metric in before if now.get(metric) != before[metric]]
    shown = differing or [next(iter(before))]
    said = ", ".join(f"{metric} {before[metric]:.4f} kept, {now.get(metric, float('nan')):.4f} now" for metric in shown)
    print(f"  {said}: {'NOT current' if differing else 'current'}", flush=True)
    return not differing


def main() -> None:
    """Check what is asked for, and exit with the status that the module's docstring names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="*", help="names of folders in evidence/; all without one")
    parser.add_argument("--record", action="store_true", help="keep this machine's sums as those of the evidence")
    options = parser.parse_args()
    if options.record:
        known = json_file.load(ROUNDING) if ROUNDING.is_file() else {}
        write_whole(ROUNDING, json.dumps(known | {torch.__version__: rounding()}, indent=1) + "\n")
        return
    records = [record for record in run_record.records([KEPT])[0] if record.finished]
    by_name = {name: list(members) for name, members in itertools.groupby(sorted(records, key=_name), key=_name)}
    unknown = sorted(set(options.sweeps) - set(by_name))
    if unknown:
        parser.error(f"no kept run of {', '.join(unknown)}; kept are {', '.join(by_name)}")
    dirty = without_commit(records)
    if dirty:
        print(f"from files that no commit holds: {', '.join(dirty)}")
    if json_file.load(ROUNDING).get(torch.__version__) != rounding():
        print("this machine or this torch rounds otherwise than the one of the evidence: it cannot tell")
        sys.exit(3)
    current = [check(name, by_name[name]) for name in options.sweeps or by_name]
    sys.exit(0 if all(current) and not dirty else 1)


def _name(record: Record) -> str:
    return record.name


if __name__ == "__main__":
    main()
