"""`python -m mtl_cli` is `mtl`."""

from mtl_cli.cli import main

main()
