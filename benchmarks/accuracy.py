"""Predicted against measured, row by row. `python benchmarks/accuracy.py MEASUREMENTS.json [--write] [--fitcheck PYTHON]`

The measurements are a list of published runs ({"points": [...]}, each with its source). Compared are the rows of PEFT's
method comparison (https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA): 31 methods on
Llama-3.2-3B and an L40S, with the settings that they document: bf16 weights without autocast, fp32 adapters, all logits,
AdamW, batches of 4 rows of at most 768 tokens, about 840 real tokens in a mean step.

Memory is shown twice. "at the limit" takes every row to be as long as the rows may be, which is what a plan without data
says. "as met" takes the longest batch that the run is likely to have met: LONGEST tokens, the one number that makes the
error of every other row smallest; the rows in between were not used for it, nor for the rates of the clock.

`--write` writes docs/accuracy.md and its plot. `--fitcheck` names a Python that has fitcheck-llm and adds its figures.
"""

from __future__ import annotations

import argparse
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
sys.path.insert(0, str(ROOT))

LONGEST = 720  # tokens, see above
LIMIT = 768
MEAN_LENGTH = 225  # padded tokens of a mean row
FAMILY = "peft-metamathqa"
GIB = 2**30
# What the documents of a row add to its PEFT config.
NOT_OPTIONS = {"peft_type", "experiment", "adapter_dtype", "task_type"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published run beside its estimates. Bytes in GiB; `fitcheck` is None where that tool has no such method."""

    name: str
    measured: float
    at_the_limit: float
    as_met: float
    measured_seconds: float
    seconds: float
    parameters_agree: bool
    held_out: bool  # not used to choose a constant
    fitcheck: float | None = None


def plan_of(point: dict[str, Any]) -> Any:
    """The plan of a published run."""
    from engine.plan import Plan

    settings = point["method_config"]
    method = settings.get("peft_type", point["method"]).lower() if point["method"] != "full" else "full"
    options = {name: value for name, value in settings.items() if name not in NOT_OPTIONS and value is not None}
    return Plan(
        model=point["model"],
        method=method,
        method_options=_known(method, options),
        precision="bf16",
        loss="full",
        autocast=False,
        gpu="L40S",
        max_length=LIMIT,
    )


def _known(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Configs of other PEFT versions have fields that the installed one lacks."""
    from engine.methods import METHODS

    names = {option.name for option in METHODS[method].options}
    return {name: value for name, value in options.items() if name in names}


def rows(points: Sequence[dict[str, Any]], fitcheck: str | None) -> Iterator[Row]:
    """Each published run with its estimates."""
    from estimators.estimator import estimate

    for number, point in enumerate(point for point in points if point["family"] == FAMILY):
        plan = plan_of(point)
        found, met = estimate(plan), estimate(plan.with_(max_length=LONGEST))
        step = estimate(plan.with_(max_length=MEAN_LENGTH)).step_seconds
        assert step is not None
        yield Row(
            name=point["id"].removeprefix("peft-metamath-").replace("--llama-3.2-3B", ""),
            measured=point["peak_gib"],
            at_the_limit=found.memory.peak / GIB,
            as_met=met.memory.peak / GIB,
            measured_seconds=point["time"]["s_per_step"],
            seconds=step.likely,
            parameters_agree=(found.trainable_params, found.total_params)
            == (point["trainable_params"], point["total_params"] or found.total_params),
            held_out=number % 2 == 1,
            fitcheck=_fitcheck(fitcheck, plan) if fitcheck else None,
        )


# Run by the other Python: fitcheck's own estimate, less the 500 MiB that it takes for the CUDA context.
ASK_FITCHECK = """
import json, sys, fitcheck
shape, rank, targets, length = json.loads(sys.argv[1])
model = fitcheck.ModelConfig(**shape)
adapter = {"lora_rank": rank, "lora_targets": targets} if rank else {"lora_rank": None, "optimizer_dtype": "bf16"}
training = fitcheck.TrainingConfig(batch_size=4, seq_len=length, flash_attn=True, **adapter)
print((fitcheck.estimate(model, training, fitcheck.get_gpu("l40s")).total_mib - 500) / 1024)
"""


def _fitcheck(python: str, plan: Any) -> float | None:
    """GiB that fitcheck-llm predicts for a plain LoRA or a full fine-tune; None of another method."""
    from engine import build

    options = plan.method_options
    plain = plan.method == "lora" and not options.get("use_dora")
    if plan.method != "full" and not plain:
        return None
    config = build.load_config(plan)
    shape = {
        "name": "Llama-3.2-3B",
        "num_params": 3_212_749_824,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "head_dim": config.head_dim,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    question = [shape, options["r"] if plain else None, sorted(options.get("target_modules", [])), LIMIT]
    command = [python, "-c", ASK_FITCHECK, json.dumps(question)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# --- what comes out -------------------------------------------------------------------------------------------------


def error(predicted: float, measured: float) -> float:
    """The relative error, with its sign."""
    return predicted / measured - 1


def summary(found: Sequence[Row]) -> list[str]:
    """The errors in a line each."""
    held_out = [row for row in found if row.held_out]
    rivals = [row for row in found if row.fitcheck is not None]
    lines = [
        _line("memory, rows at the limit", [error(row.at_the_limit, row.measured) for row in found]),
        _line("memory, rows as met, held-out half", [error(row.as_met, row.measured) for row in held_out]),
        _line("step time, held-out half", [error(row.seconds, row.measured_seconds) for row in held_out]),
        _line("step time, all", [error(row.seconds, row.measured_seconds) for row in found]),
        f"trainable and total parameters: {sum(row.parameters_agree for row in found)} of {len(found)} rows exact",
    ]
    if rivals:
        lines.append(
            _line("the same rows, this program, at the limit", [error(row.at_the_limit, row.measured) for row in rivals])
        )
        lines.append(_line("the same rows, fitcheck-llm", [error(row.fitcheck or 0, row.measured) for row in rivals]))
    return lines


def _line(what: str, errors: Sequence[float]) -> str:
    absolute = [abs(one) for one in errors]
    return f"{what}: median absolute error {statistics.median(absolute):.1%}, worst {max(absolute):.1%} ({len(errors)} rows)"


HEAD = ("method", "measured GiB", "at the limit", "error", "as met", "error", "measured s", "predicted s", "error", "fitcheck")


def cells(row: Row) -> tuple[str, ...]:
    """One row of the table, as words."""
    return (
        row.name,
        f"{row.measured:.2f}",
        f"{row.at_the_limit:.2f}",
        f"{error(row.at_the_limit, row.measured):+.1%}",
        f"{row.as_met:.2f}",
        f"{error(row.as_met, row.measured):+.1%}",
        f"{row.measured_seconds:.3f}",
        f"{row.seconds:.3f}",
        f"{error(row.seconds, row.measured_seconds):+.0%}",
        "" if row.fitcheck is None else f"{error(row.fitcheck, row.measured):+.1%}",
    )


def plot(found: Sequence[Row], size: int = 520, margin: int = 56) -> str:
    """Predicted (as met) against measured memory, as an SVG: on the line is right."""
    least, most = min(row.measured for row in found) - 1, max(row.measured for row in found) + 2

    def place(value: float) -> float:
        return margin + (value - least) / (most - least) * (size - 2 * margin)

    dots = "".join(
        f'<circle cx="{place(row.measured):.1f}" cy="{size - place(row.as_met):.1f}" r="4" '
        f'fill="{"#b4541a" if row.held_out else "#7a7a72"}" fill-opacity="0.8"><title>{row.name}</title></circle>'
        for row in found
    )
    ticks = "".join(
        f'<text x="{place(value):.0f}" y="{size - margin + 20}" text-anchor="middle">{value}</text>'
        f'<text x="{margin - 10}" y="{size - place(value) + 4:.0f}" text-anchor="end">{value}</text>'
        for value in range(20, int(most), 5)
    )
    low, high = place(least), place(most)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="13" '
        f'fill="#55554d"><rect width="{size}" height="{size}" fill="#faf8f3"/>'
        f'<line x1="{low}" y1="{size - low}" x2="{high}" y2="{size - high}" stroke="#c9c5b8" stroke-width="1.5"/>{ticks}{dots}'
        f'<text x="{size / 2}" y="{size - 10}" text-anchor="middle">measured GiB</text>'
        f'<text transform="translate(16 {size / 2}) rotate(-90)" text-anchor="middle">predicted GiB</text></svg>\n'
    )


def write(found: Sequence[Row]) -> None:
    """docs/accuracy.md and its picture."""
    table = [
        f"| {' | '.join(HEAD)} |",
        f"| --- {'| ---: ' * (len(HEAD) - 1)}|",
        *(f"| {' | '.join(cells(row))} |" for row in found),
    ]
    text = "\n".join(
        [
            "# How right the estimates are",
            "",
            "Written by `python benchmarks/accuracy.py MEASUREMENTS.json --write`; what is compared, and how, is said there.",
            "",
            *(f"- {line}" for line in summary(found)),
            "",
            "![Predicted against measured memory; the orange dots chose no constant](accuracy.svg)",
            "",
            *table,
            "",
        ]
    )
    (ROOT / "docs" / "accuracy.md").write_text(text, encoding="utf-8")
    (ROOT / "docs" / "accuracy.svg").write_text(plot(found), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurements", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/accuracy.md")
    parser.add_argument("--fitcheck", metavar="PYTHON", help="a Python that has fitcheck-llm")
    options = parser.parse_args()
    points = json.loads(options.measurements.read_text(encoding="utf-8"))["points"]
    warnings.filterwarnings("ignore")
    found = []
    print("  ".join(f"{title:>12}" for title in HEAD))
    for row in rows(points, options.fitcheck):
        found.append(row)
        print("  ".join(f"{cell:>12}" for cell in cells(row)), flush=True)
    print("\n".join(summary(found)))
    if options.write:
        write(found)


if __name__ == "__main__":
    main()
