"""What the base install takes: time, processor time, bytes on disk, packages, and whether `pip check` is content.

Run: python benchmarks/install.py          (in a checkout; makes a virtual environment and removes it again)

The last line is the sentence that docs/index.md has of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trcompress.util.figures import size
from trcompress.util.files import write_text
from trcompress.util.hardware import this_machine
from trcompress.version import __version__

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench-install.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    about = {
        "command": f"python benchmarks/install.py {' '.join(sys.argv[1:])}".strip(),
        "version": __version__,
        "machine": this_machine().model_dump(),
    }
    write_text(given.out, json.dumps(about | found, indent=1) + "\n")
    print(sentence(found))


def measure(folder: Path) -> dict[str, Any]:
    """Install into a new environment below a folder."""
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    pip = [folder / "env" / "bin" / "python", "-m", "pip"]
    began, before = time.perf_counter(), _children_s()
    command = [*pip, "install", "--quiet", "--no-cache-dir", "-c", ROOT / "constraints.txt", ROOT]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    took, used = time.perf_counter() - began, _children_s() - before
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    listed = subprocess.run([*pip, "list", "--format", "json"], check=True, capture_output=True, text=True)
    checked = subprocess.run([*pip, "check"], capture_output=True, text=True)
    return {
        "seconds_installing": round(took, 1),
        "processor_seconds": round(used, 1),
        "packages": len([one for one in json.loads(listed.stdout) if one["name"] not in ("pip", "setuptools")]),
        "all_bytes": bytes_below(site),
        "torch_bytes": bytes_below(site / "torch"),
        "trcompress_bytes": bytes_below(site / "trcompress"),
        "pip_check": checked.stdout.strip() or checked.stderr.strip(),
    }


def sentence(found: dict[str, Any]) -> str:
    """What the documentation says of it."""
    whole, torch, own = (size(found[f"{name}_bytes"]) for name in ("all", "torch", "trcompress"))
    return (
        f"The base install takes {whole} in {found['packages']} packages, {torch} of it PyTorch (the build for "
        f"CPUs) and {own} trcompress with its demo; {found['seconds_installing']:.0f} s, "
        f"{found['processor_seconds']:.0f} s of them the processor's. `pip check`: {found['pip_check']}"
    )


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
