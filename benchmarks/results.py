"""Write RESULTS.md from the results saved under results/.

Run: python benchmarks/results.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trcompress.reproduce.figure7 import figure7
from trcompress.reproduce.plots import draw, write_numbers
from trcompress.reproduce.results_page import find_results, results_page
from trcompress.util.files import write_text


def main() -> None:
    """Read every result, write the page."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=root / "results", help="folder of saved results")
    parser.add_argument("--out", type=Path, default=root / "RESULTS.md", help="page to write")
    given = parser.parse_args()
    found = find_results(given.results)
    together = figure7([result for _, result in found])
    write_numbers(given.results, together)
    pictures = draw(given.results, together)
    write_text(given.out, results_page(found, given.out.resolve().parent, pictures))
    print(f"{given.out}: {len(found)} results")


if __name__ == "__main__":
    main()
