"""`python -m dcnlab` is `dcnlab`."""

import importlib.util
import sys

if importlib.util.find_spec("dcnlab.cli") is None:
    sys.exit("dcnlab: the commands need the whole suite; dcnlab-ops is installed: pip install dcnlab")

from dcnlab.cli.main import main

main()
