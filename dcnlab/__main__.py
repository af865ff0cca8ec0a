"""`python -m dcnlab` is `dcnlab`."""

from dcnlab.cli.main import main

main()
