"""Damaged files for every reader and all that prints what a file says; see `python tests/fuzz/run.py --help`."""
