"""Write RESULTS.md from what recipes and benchmarks saved under results/.

Run: python benchmarks/results.py          (--check: write nothing, fail if the page is not what the files say)
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench_results import missing, read_benchmarks
from results_summary import summary

from trcompress.reproduce.figure7 import figure7
from trcompress.reproduce.plots import draw, write_numbers
from trcompress.reproduce.results_page import find_results, results_page
from trcompress.util.files import write_text


def main() -> None:
    """Read every result, write the page."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=root / "results", help="folder of saved results")
    parser.add_argument("--out", type=Path, default=root / "RESULTS.md", help="page to write")
    parser.add_argument("--check", action="store_true", help="compare with the page instead of writing it")
    given = parser.parse_args()
    found = find_results(given.results) + read_benchmarks(given.results)
    together = figure7([result for _, result in found])
    pictures = [given.results / f"{plot.file}.png" for plot in together]
    base = given.out.resolve().parent
    page = results_page(found, base, pictures, summary(found), missing(given.results))
    if given.check:
        if given.out.read_text(encoding="utf-8") != page:
            raise SystemExit(f"{given.out} is not what {given.results} says: run `python benchmarks/results.py`")
    else:
        write_numbers(given.results, together)
        draw(given.results, together)
        write_text(given.out, page)
    print(f"{given.out}: {len(found)} results")


if __name__ == "__main__":
    main()
