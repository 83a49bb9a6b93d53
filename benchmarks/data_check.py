"""How long it takes to check a large file, and how much memory. `python benchmarks/data_check.py [--rows N] [--kind chat]`

Writes a file of about 1 GB with one malformed line, scans it as the app does (in a process of its own, so that its peak
memory is that of the scan), and prints seconds, peak resident memory, and the line that was found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("the", "model", "reads", "every", "row", "of", "this", "file", "and", "says", "which", "line", "is", "wrong")
SCAN = "--scan"


def line(kind: str, random_: random.Random, characters: int) -> str:
    text = " ".join(random_.choices(WORDS, k=characters // 5))
    half = len(text) // 2
    if kind == "text":
        return json.dumps({"text": text})
    if kind == "pairs":
        return json.dumps({"prompt": text[:half], "completion": text[half:]})
    turns = [{"role": "user", "content": text[:half]}, {"role": "assistant", "content": text[half:]}]
    return json.dumps({"messages": turns})


def write(file: Path, kind: str, rows: int, bad: int, characters: int) -> None:
    """A file of `rows` lines, made of 2,000 different ones; line `bad` is malformed."""
    random_ = random.Random(0)
    lines = [line(kind, random_, characters) for _ in range(2000)]
    with open(file, "w") as stream:
        for number in range(1, rows + 1):
            stream.write('{"text": oops}\n' if number == bad else random_.choice(lines) + "\n")


def scan(file: Path) -> None:
    """The child process: scan, and print what it took."""
    from engine import data
    from engine.plan import DataSource

    began = time.monotonic()
    found = data.scan(DataSource(path=str(file)))
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{found.rows:,} rows of {file.stat().st_size / 1e9:.2f} GB in {seconds:.1f} s, peak memory {peak / 1e6:.0f} MB")
    print(found.issues[0].message)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=("chat", "pairs", "text"), default="chat")
    parser.add_argument("--characters", type=int, default=950)
    parser.add_argument(SCAN, type=Path)
    options = parser.parse_args()
    if options.scan:
        scan(options.scan)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write(file, options.kind, options.rows, options.rows // 2 + 1, options.characters)
        environment = os.environ | {"FITTINGROOM_HOME": folder}
        subprocess.run([sys.executable, __file__, SCAN, str(file)], check=True, env=environment)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
