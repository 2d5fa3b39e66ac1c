"""`python -m trcompress` is the `trcompress` command."""

from trcompress.cli.main import main

main()
