"""`python -m dcnlab` is `dcnlab`."""

from dcnlab.cli import main

main()
