"""Predicted against measured, row by row: `python benchmarks/accuracy.py MEASUREMENTS.json [--family KEY ...] [--write]`

The measurements are a list of published runs ({"points": [...]}, each with its source). `families.py` has one row for each
project that published them: how a run becomes a plan, what its figure means, and whether its errors count (the Hugging
Face stack with every setting known) or are bounds (another stack).

Memory of PEFT's comparison is shown twice: "at the limit" takes every row to be as long as rows may be, which is what a
plan without data says; "as met" takes the longest batch that the run is likely to have met, the one number that makes
the error of every other row smallest. A verdict is wrong where the plan is said to fit and the run died of a lack of
memory, or is said not to fit and ran.

`--results FILE` keeps what was worked out, so that an interrupted run goes on; `--fitcheck PYTHON` names a Python that has
fitcheck-llm and adds its figures; `--write` writes docs/accuracy.md and its plot.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "benchmarks" / "fms_acceleration.json"  # what was found beside the given measurements
sys.path.insert(0, str(ROOT))

from benchmarks.families import FAMILIES, GIB, Family, Point  # noqa: E402 - found through the line above


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published run beside its estimate. GiB in the source's metric, seconds of an optimizer step; None is unknown."""

    family: str
    name: str
    measured: float | None
    predicted: float
    out_of_memory: bool
    fits: str
    measured_seconds: float | None
    seconds: float | None
    parameters: tuple[int, int]
    published_parameters: tuple[int | None, int | None]
    held_out: bool  # every other row of a family: not used to choose a constant
    fitcheck: float | None = None

    @property
    def wrong_verdict(self) -> bool:
        """Said to fit and did not, or the other way round."""
        return self.fits == ("yes" if self.out_of_memory else "no")

    @property
    def wrong_parameters(self) -> bool:
        """A published count that is not ours."""
        pairs = zip(self.parameters, self.published_parameters, strict=True)
        return any(published is not None and published != ours for ours, published in pairs)


def rows_of(family: Family, points: Sequence[Point], known: dict[str, Row], fitcheck: str | None) -> Iterator[Row]:
    """The family's runs that a plan can say, each with its estimate."""
    from engine.issues import PlanError
    from estimators.estimator import estimate

    number = 0
    for point in points:
        mine = point["family"] == family.source_key and point["tier"] != "X"  # X: the figure contradicts its own settings
        plan = family.plan(point) if mine else None
        if plan is None:
            continue
        number += 1
        key = f"{family.key} {point['id']}"
        if key in known:
            yield known[key]
            continue
        try:
            found = estimate(plan)
        except PlanError as error:
            print(f"{point['id']} is no plan here: {error}")
            continue
        seconds = family.seconds(point) if point["time"] else None
        mean = estimate(family.timed(plan, point)) if seconds else None
        yield Row(
            family=family.key,
            name=point["id"],
            measured=family.measured(point) if family.memory is not None else None,
            predicted=family.memory(found, point) if family.memory is not None else found.memory.peak / GIB,
            out_of_memory=bool(point["oom"]),
            fits=found.fits if family.real_card else "",
            measured_seconds=seconds,
            seconds=mean.step_seconds.likely if mean is not None and mean.step_seconds is not None else None,
            parameters=(found.trainable_params, found.total_params),
            published_parameters=(point["trainable_params"], point["total_params"]) if family.counts else (None, None),
            held_out=number % 2 == 0,
            fitcheck=ask_fitcheck(fitcheck, plan, found) if fitcheck else None,
        )


# --- the rival ------------------------------------------------------------------------------------------------------

# Run by the other Python: fitcheck's own estimate, less the 500 MiB that it takes for the CUDA context of such cards.
ASK_FITCHECK = """
import json, sys, fitcheck
shape, settings = json.loads(sys.argv[1])
report = fitcheck.estimate(fitcheck.ModelConfig(**shape), fitcheck.TrainingConfig(**settings), fitcheck.get_gpu("l40s"))
print((report.total_mib - 500) / 1024)
"""


def ask_fitcheck(python: str, plan: Any, found: Any) -> float | None:
    """GiB that fitcheck-llm predicts; None of what it cannot say (other methods, several GPUs, encoders).

    Args:
        found: our estimate, for the count of parameters, which it asks for.
    """
    from engine.catalog import hardware
    from engine.modeling import build
    from engine.objectives import task_of

    options = plan.method_options
    adapter = plan.method in ("lora", "qlora") and not options.get("use_dora")
    targets = options.get("target_modules", [])
    if not (adapter or plan.method == "full") or task_of(plan).key != "causal-lm" or plan.num_gpus > 1:
        return None
    config = build.load_config(plan)
    if not hasattr(config, "intermediate_size"):  # its shapes are those of Llama's kind
        return None
    heads = config.num_attention_heads
    shape = {
        "name": "model",
        "num_params": found.total_params - (found.trainable_params if adapter else 0),
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": heads,
        "num_kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
    }
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = {
        "precision": plan.precision,
        "quantization": "nf4" if plan.quantization == "nf4" else "none",
        "double_quant": plan.quantization == "nf4" and plan.double_quantization,
        "optimizer": "adamw_8bit" if "8bit" in plan.optim else "adamw",
        "optimizer_dtype": "fp32" if adapter or plan.master_weights else "bf16",
        "batch_size": plan.per_device_train_batch_size,
        "seq_len": plan.max_length,
        "lora_rank": options["r"] if adapter else None,
        "lora_targets": every if targets == "all-linear" else sorted(targets),
        "grad_checkpoint": plan.gradient_checkpointing,
        "flash_attn": not hardware.find_gpu(plan.gpu).is_cpu and plan.attn_implementation != "eager",
    }
    done = subprocess.run([python, "-c", ASK_FITCHECK, json.dumps([shape, settings])], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


# --- what comes out -------------------------------------------------------------------------------------------------


def error(predicted: float | None, measured: float | None) -> float | None:
    """The relative error, with its sign; None where one of the two is unknown."""
    return predicted / measured - 1 if predicted is not None and measured else None


def summary(family: Family, found: Sequence[Row]) -> list[str]:
    """The errors of a family, a line for each figure."""
    kept = [row for row in found if not row.out_of_memory]
    lines = [_line("memory", [error(row.predicted, row.measured) for row in kept])]
    lines.append(_line("step time", [error(row.seconds, row.measured_seconds) for row in kept]))
    lines.append(_line("step time, held-out half", [error(row.seconds, row.measured_seconds) for row in kept if row.held_out]))
    rivals = [row for row in kept if row.fitcheck is not None and row.measured]
    if rivals:
        lines.append(
            _line("the rows that fitcheck-llm can say, this program", [error(r.predicted, r.measured) for r in rivals])
        )
        lines.append(_line("the same rows, fitcheck-llm", [error(row.fitcheck, row.measured) for row in rivals]))
    judged = [row for row in found if row.fits]
    if judged:
        dead = sum(row.out_of_memory for row in judged)
        wrong = [row.name for row in judged if row.wrong_verdict]
        lines.append(
            f"verdicts: {len(wrong)} of {len(judged)} wrong ({dead} of them ran out of memory) {', '.join(wrong)}".strip()
        )
    counted = [row for row in found if any(row.published_parameters)]
    if counted:
        exact = sum(not row.wrong_parameters for row in counted)
        lines.append(f"parameters: {exact} of {len(counted)} rows exact")
    return [line for line in lines if line]


def together(found: Sequence[Row]) -> list[str]:
    """The errors of all rows that count, each run once: a family that shows another's runs in another way is left out."""
    mine = [row for row in found if FAMILIES[row.family].known and not FAMILIES[row.family].source and not row.out_of_memory]
    own = {point["family"] for point in json.loads(OWN.read_text(encoding="utf-8"))}
    given = [row for row in mine if row.family not in own]
    lines = [
        _line("memory", [error(row.predicted, row.measured) for row in mine]),
        _line("step time", [error(row.seconds, row.measured_seconds) for row in mine]),
        _line("step time, held-out half", [error(row.seconds, row.measured_seconds) for row in mine if row.held_out]),
        _line("memory, the given measurements alone", [error(row.predicted, row.measured) for row in given]),
        _line("step time, the given measurements alone", [error(row.seconds, row.measured_seconds) for row in given]),
    ]
    return [line for line in lines if line]


def _line(what: str, errors: Sequence[float | None]) -> str:
    known = [one for one in errors if one is not None]
    if not known:
        return ""
    absolute = [abs(one) for one in known]
    return (
        f"{what}: median absolute error {statistics.median(absolute):.1%}, worst {max(absolute):.1%}, "
        f"mean {statistics.mean(known):+.1%} ({len(known)} rows)"
    )


HEAD = ("run", "measured GiB", "predicted", "error", "verdict", "measured s", "predicted s", "error", "fitcheck")


def cells(row: Row) -> tuple[str, ...]:
    """One row of the table, as words."""
    return (
        row.name,
        "out of memory" if row.out_of_memory else _number(row.measured, ".2f"),
        _number(row.predicted, ".2f"),
        "" if row.out_of_memory else _number(error(row.predicted, row.measured), "+.1%"),
        row.fits + (" (wrong)" if row.fits and row.wrong_verdict else ""),
        _number(row.measured_seconds, ".3f"),
        _number(row.seconds, ".3f"),
        _number(error(row.seconds, row.measured_seconds), "+.0%"),
        _number(error(row.fitcheck, row.measured), "+.1%"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def plot(found: Sequence[Row], size: int = 560, margin: int = 56) -> str:
    """Predicted against measured memory on logarithmic axes, as an SVG: on the line is right."""
    import math

    shown = [row for row in found if row.measured and not row.out_of_memory and FAMILIES[row.family].memory is not None]
    least, most = math.log(3), math.log(90)

    def place(value: float) -> float:
        return margin + (math.log(value) - least) / (most - least) * (size - 2 * margin)

    dots = "".join(
        f'<circle cx="{place(row.measured or 1):.1f}" cy="{size - place(row.predicted):.1f}" r="4" '
        f'fill="{"#b4541a" if FAMILIES[row.family].known else "#a9a69b"}" fill-opacity="0.8"><title>{row.name}</title></circle>'
        for row in sorted(shown, key=lambda row: FAMILIES[row.family].known)
    )
    ticks = "".join(
        f'<text x="{place(value):.0f}" y="{size - margin + 20}" text-anchor="middle">{value}</text>'
        f'<text x="{margin - 10}" y="{size - place(value) + 4:.0f}" text-anchor="end">{value}</text>'
        for value in (4, 8, 16, 24, 40, 80)
    )
    low, high = place(3), place(90)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="13" '
        f'fill="#55554d"><rect width="{size}" height="{size}" fill="#faf8f3"/>'
        f'<line x1="{low}" y1="{size - low}" x2="{high}" y2="{size - high}" stroke="#c9c5b8" stroke-width="1.5"/>{ticks}{dots}'
        f'<text x="{size / 2}" y="{size - 10}" text-anchor="middle">measured GiB</text>'
        f'<text transform="translate(16 {size / 2}) rotate(-90)" text-anchor="middle">predicted GiB</text></svg>\n'
    )


def write(found: Sequence[Row], sources: dict[str, str]) -> None:
    """docs/accuracy.md and its picture."""
    parts = [
        "# How right the estimates are",
        "",
        "Written by `python benchmarks/accuracy.py MEASUREMENTS.json --write`; what is compared, and how, is said there and in "
        "`benchmarks/families.py`. No GPU of our own was at hand: all measurements are published ones.",
        "",
        "![Predicted against measured memory; the orange dots are runs with every setting known](accuracy.svg)",
        "",
        "## All runs of the Hugging Face stack whose settings are known",
        "",
        "Each run once; those of PEFT's comparison at the limit of their rows.",
        "",
        *(f"- {line}" for line in together(found)),
    ]
    for family in FAMILIES.values():
        mine = [row for row in found if row.family == family.key]
        if not mine:
            continue
        counts = "the errors count" if family.known else "another stack: bounds"
        parts += [
            "",
            f"## {family.title}",
            "",
            f"{counts[0].upper()}{counts[1:]}; {family.note}. Source: {sources[family.key]}",
            "",
        ]
        parts += [f"- {line}" for line in summary(family, mine)]
        parts += ["", f"| {' | '.join(HEAD)} |", f"| --- {'| ---: ' * (len(HEAD) - 1)}|"]
        parts += [f"| {' | '.join(cells(row))} |" for row in mine]
    (ROOT / "docs" / "accuracy.md").write_text("\n".join([*parts, ""]), encoding="utf-8")
    (ROOT / "docs" / "accuracy.svg").write_text(plot(found), encoding="utf-8")


def read_points(path: Path) -> list[Point]:
    """The given measurements, and those that the project found beside them."""
    return json.loads(path.read_text(encoding="utf-8"))["points"] + json.loads(OWN.read_text(encoding="utf-8"))


def read_results(path: Path | None) -> dict[str, Row]:
    """Rows of an earlier run by family and name."""
    if path is None or not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    pairs = ("parameters", "published_parameters")
    rows = [Row(**{**value, **{name: tuple(value[name]) for name in pairs}}) for value in values]
    return {f"{row.family} {row.name}": row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurements", type=Path)
    parser.add_argument("--family", action="append", choices=list(FAMILIES), help="only these; all, if not given")
    parser.add_argument("--results", type=Path, help="a file that keeps the rows")
    parser.add_argument("--fitcheck", metavar="PYTHON", help="a Python that has fitcheck-llm")
    parser.add_argument("--write", action="store_true", help="write docs/accuracy.md")
    options = parser.parse_args()
    points = json.loads(options.measurements.read_text(encoding="utf-8"))["points"] + json.loads(
        OWN.read_text(encoding="utf-8")
    )
    warnings.filterwarnings("ignore")
    known = read_results(options.results)
    for family in (FAMILIES[key] for key in options.family or FAMILIES):
        print(f"\n{family.title} ({'errors count' if family.known else 'bounds'}; {family.note})")
        for row in rows_of(family, points, known, options.fitcheck):
            known[f"{row.family} {row.name}"] = row
            print("  ".join(f"{cell:>12}" for cell in cells(row)), flush=True)
            if options.results:
                options.results.write_text(json.dumps([dataclasses.asdict(one) for one in known.values()]), encoding="utf-8")
        print("\n".join(summary(family, [row for row in known.values() if row.family == family.key])))
    print("\nAll runs whose errors count, each once")
    print("\n".join(together(list(known.values()))))
    if options.write:
        sources = {
            family.key: next(point["source_url"] for point in points if point["family"] == family.source_key)
            for family in FAMILIES.values()
        }
        write(list(known.values()), sources)


if __name__ == "__main__":
    main()
