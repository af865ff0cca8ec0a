"""Seconds until the package is there: `import dcnlab.ops` beside `import torch`, and `dcnlab --help`.

python benchmarks/startup.py --out benchmarks/results/startup_NAME.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import measure
from tabulate import tabulate

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import dcnlab.ops": ["-c", "import dcnlab.ops"],
    "import torchvision": ["-c", "import torchvision"],
    "dcnlab --help": ["-m", "dcnlab", "--help"],
}


def main() -> None:
    """Measure in turns, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()

    def work(words: list[str]) -> measure.Work:
        return lambda: subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    times = measure.seconds([work(words) for words in COMMANDS.values()], options.rounds, "cpu", least=0.0)
    rows = [{"command": name, "seconds": taken} for name, taken in zip(COMMANDS, times, strict=True)]
    print(tabulate(rows, "keys", floatfmt=".2f"))
    if options.out:
        measure.write(options.out, "cpu", {"rounds": options.rounds}, rows)


if __name__ == "__main__":
    main()
