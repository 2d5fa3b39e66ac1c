"""Commands killed at random moments; see `python tests/kills/run.py --help`."""
