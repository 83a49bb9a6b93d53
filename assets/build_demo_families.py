"""Write the demo sets of the other objectives: texts as JSONL, pictures as Parquet, each with a held-out part.

python assets/build_demo_families.py              # writes assets/demo_families, the same rows every time
"""

import argparse
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from demo_text import shapes
from demo_text.families import family_sets
from demo_text.sets import to_jsonl

TRAIN_PICTURES, HELD_OUT_PICTURES = 320, 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo_families")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for demo in family_sets():
        (out / f"{demo.name}.jsonl").write_text(to_jsonl(demo.train), encoding="utf-8")
        (out / f"{demo.name}.heldout.jsonl").write_text(to_jsonl(demo.held_out), encoding="utf-8")
        print(f"{demo.name}: {len(demo.train)} training rows, {len(demo.held_out)} held out")
    for part, count in (("", TRAIN_PICTURES), (".heldout", HELD_OUT_PICTURES)):
        drawn = shapes.drawings(count, f"shapes{part}")
        asked = random.Random(f"questions{part}")
        write(out / f"shapes{part}.parquet", [shapes.label_row(drawing) for drawing in drawn])
        write(out / f"captions{part}.parquet", [shapes.words_row(drawing) for drawing in drawn])
        write(out / f"questions{part}.parquet", [shapes.question_row(drawing, asked) for drawing in drawn])
        write(out / f"boxes{part}.parquet", [shapes.boxes_row(scene) for scene in shapes.scenes(count, f"boxes{part}")])


def write(file: Path, rows: list[dict[str, object]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), file)
    print(f"{file.name}: {len(rows)} rows, {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
