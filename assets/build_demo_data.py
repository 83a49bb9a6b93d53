"""Write the demo training sets: `<name>.jsonl` and `<name>.heldout.jsonl` for each.

python assets/build_demo_data.py                  # writes assets/demo_data, the same bytes every time
"""

import argparse
from pathlib import Path

from demo_text.sets import all_sets, to_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo_data")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for demo in all_sets():
        (out / f"{demo.name}.jsonl").write_text(to_jsonl(demo.train), encoding="utf-8")
        (out / f"{demo.name}.heldout.jsonl").write_text(to_jsonl(demo.held_out), encoding="utf-8")
        print(f"{demo.name}: {len(demo.train)} training rows, {len(demo.held_out)} held out")


if __name__ == "__main__":
    main()
