"""Files that ask for more than they hold, each read in a child process that tells what it took in memory."""

import json
import os
import subprocess
import sys

CHILD = """
import json, sys
from pathlib import Path
import torch
from trcompress.util.memory import peak_extra_bytes
{readers}

def tried(path, words):
    try:
        words.append("READ " + repr(read(path))[:100])
    except Refusal as error:
        words.append(str(error))

said = {{}}
for path in sorted(Path(sys.argv[1]).iterdir()):
    words = []
    took = peak_extra_bytes(lambda: tried(path, words), torch.device("cpu"))
    said[path.name] = (took >> 20, words[0])
print(json.dumps(said))
"""


def read_in_a_child(folder, readers):
    """What one child said of every file of a folder: name -> (megabytes it took, its size in megabytes, message).

    Args:
        folder: the files.
        readers: code that defines `read(path)`, and `Refusal`, the error that it may raise.
    """
    child = subprocess.run(
        [sys.executable, "-c", CHILD.format(readers=readers), folder],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    said = json.loads(child.stdout)
    return {name: (took, (folder / name).stat().st_size >> 20, words) for name, (took, words) in said.items()}
