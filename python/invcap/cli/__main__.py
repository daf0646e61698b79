"""`python -m invcap.cli`, for launchers such as torchrun."""

from invcap.cli import main

main()
