"""The fit card: an `Estimate` as HTML. Pure functions; every value is escaped.

The verdict is said in words, by a shape and by a colour; the tape shows the memory by part against a capacity line,
with the estimate's range as a whisker; a table repeats the parts as text. On a phone the card folds into a bar (the
style sheet does that, with the checkbox of `fold_switch`), so the verdict's heading is a label of that checkbox.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from engine.issues import Issue
from estimators.estimate import MEMORY_PARTS, Estimate, Memory
from estimators.timing.measured import Measured
from ui.views import formats

FOLD_ID = "fit-fold"
PART_LABELS = {
    "weights": ("Weights", ""),
    "gradients": ("Gradients", ""),
    "optimizer": ("Optimizer", ""),
    "activations": ("Activations", ""),
    "loss": ("Loss", "logits"),
    "fragments": ("Fragments", "of the allocator"),
    "overhead": ("Overhead", "outside of the allocator"),
}
SOURCE_LABELS = {
    "total_params": "All parameters",
    "trainable_params": "Trainable parameters",
    "step_seconds": "Time of a step",
    "total_seconds": "Time",
    "tokens_per_second": "Tokens per second",
    "host_memory": "Memory of the computer",
    "fits": "Verdict",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How an answer is headed: its class in the style sheet, its words, its shape (paths of an SVG of 28 by 28)."""

    key: str
    title: str
    shape: str


VERDICTS = {
    "yes": Verdict(key="yes", title="It fits", shape='<circle cx="14" cy="14" r="11.5"/><path d="m8.5 14.5 4 4 7.5-8.5"/>'),
    "tight": Verdict(
        key="tight", title="Tight: it may run out of memory", shape='<path d="M14 3 26 24H2Z"/><path d="M14 11v6M14 20v1"/>'
    ),
    "no": Verdict(
        key="no",
        title="It does not fit",
        shape='<path d="M9 2.5h10L25.5 9v10L19 25.5H9L2.5 19V9Z"/><path d="m10 10 8 8m0-8-8 8"/>',
    ),
}
ASKING = Verdict(
    key="ask",
    title="This plan needs a change",
    shape='<rect x="3" y="3" width="22" height="22" rx="5"/><path d="M14 8v8M14 19v1"/>',
)
FAILED = Verdict(key="ask", title="There is no estimate of this plan", shape=ASKING.shape)
WAITING = Verdict(key="wait", title="Working it out…", shape='<circle cx="14" cy="14" r="11.5"/><path d="M14 7v7l5 3"/>')


# --- the faces of the card ---------------------------------------------------------------------------------------


def estimated(estimate: Estimate, warnings: Iterable[Issue] = (), measured: Measured | None = None) -> str:
    """The card of an answered plan; `measured` is the newest run of the same step on the same device."""
    memory = estimate.memory
    body = (
        f'<div class="fit-in">{_warnings(warnings)}{_tape(memory)}{_parts(memory)}{_measured(measured)}</div>'
        f"{_folded(estimate)}{_source(estimate)}"
    )
    return _card(VERDICTS[estimate.fits], _how_sure(estimate), body)


def issues(problems: Iterable[Issue]) -> str:
    """The card of a plan that cannot be estimated: what to change."""
    items = "".join(f"<li>{formats.escape(formats.issue(problem))}</li>" for problem in problems)
    return _card(
        ASKING,
        "The estimate follows as soon as it is mended.",
        f'<div class="fit-in"><ul class="fit-issues">{items}</ul></div>',
    )


def waiting(sentence: str = "A dry run of the training step takes a few seconds the first time.") -> str:
    """The card before the first answer."""
    return _card(WAITING, sentence, "")


def failed() -> str:
    """The card after a fault, which the message at the top has told."""
    return _card(FAILED, "Change the plan, or try again in a moment.", "")


def fold_switch() -> str:
    """The switch that opens the card on a phone. It is no part of the card: a new estimate must not close it."""
    return (
        f'<input type="checkbox" id="{FOLD_ID}" aria-controls="fit-card">'
        f'<label for="{FOLD_ID}" class="fit-fold-label">Show the whole fit card</label>'
    )


def _card(verdict: Verdict, sentence: str, body: str) -> str:
    return (
        f'<section class="fit" aria-label="Fit card"><label class="fit-verdict fit-{verdict.key}" for="{FOLD_ID}">'
        '<svg width="28" height="28" viewBox="0 0 28 28" fill="none" stroke="currentColor" stroke-width="2.4" '
        f'stroke-linejoin="round" aria-hidden="true">{verdict.shape}</svg>'
        f'<span class="fit-words" role="status"><b>{formats.escape(verdict.title)}</b>'
        f"<span>{formats.escape(sentence)}</span></span>"
        '<svg class="fit-chevron" width="16" height="16" viewBox="0 0 16 16" fill="none" stroke="currentColor" '
        'stroke-width="2" aria-hidden="true"><path d="m3 10.5 5-5 5 5"/></svg></label>'
        f'<div class="fit-body">{body}</div></section>'
    )


def _how_sure(estimate: Estimate) -> str:
    memory = estimate.memory
    likely, capacity = formats.size(memory.total), formats.size(memory.capacity)
    if estimate.fits == "no":
        return f"It needs about {likely}; {estimate.device} has {capacity}."
    more = f", up to {formats.size(memory.high)} on the longest batch" if memory.high > memory.total else ""
    return f"Likely {likely} of {capacity}{more}."


def _warnings(problems: Iterable[Issue]) -> str:
    items = "".join(f"<li>{formats.escape(formats.issue(problem))}</li>" for problem in problems)
    return f'<ul class="fit-issues">{items}</ul>' if items else ""


# --- the tape ---------------------------------------------------------------------------------------------------------


def _tape(memory: Memory) -> str:
    """A bar of the parts, the capacity as a line, the range as a whisker, and a scale."""
    end = max(memory.capacity, memory.high, memory.total) * 1.06
    parts = "".join(_tape_part(name, getattr(memory, name), end) for name in MEMORY_PARTS)
    capacity = f"{formats.escape(formats.size(memory.capacity))} usable"
    side = "left" if memory.capacity / end < 0.5 else "right"
    whisker = f"left:{_percent(memory.low, end)};width:{_percent(memory.high - memory.low, end)}"
    return (
        f'<div class="tape" role="img" aria-label="{formats.escape(_tape_in_words(memory))}">'
        f'<div class="tape-bar">{parts}</div><div class="tape-whisker" style="{whisker}"></div>'
        f'<div class="tape-cap tape-cap-{side}" style="left:{_percent(memory.capacity, end)}"><span>{capacity}</span></div>'
        f'<div class="tape-ticks">{_ticks(end)}</div></div>'
    )


def _tape_part(name: str, size: int, end: float) -> str:
    """One part of the bar; a sliver goes without the gap to its neighbour, which would be wider than itself."""
    if size <= 0:
        return ""
    thin = " tape-thin" if size < 0.01 * end else ""
    return f'<i class="part-{name}{thin}" style="width:{_percent(size, end)}"></i>'


def _tape_in_words(memory: Memory) -> str:
    return (
        f"Memory needed: likely {formats.size(memory.total)}, "
        f"between {formats.size(memory.low)} and {formats.size(memory.high)}, of {formats.size(memory.capacity)} usable."
    )


def _percent(part: float, of: float) -> str:
    return f"{100 * part / of:.2f}%"


def _ticks(end: float) -> str:
    """Round figures along the scale; the last one carries the unit."""
    step = round_step(end / 6)
    unit_size, unit = (1e9, "GB") if step >= 1e8 else (1e6, "MB")
    places = [step * number for number in range(int(end / step) + 1)]
    figures = [f"{place / unit_size:g}" for place in places]
    figures[-1] += f" {unit}"
    return "".join(
        f'<span style="left:{_percent(place, end)}">{text}</span>' for place, text in zip(places, figures, strict=True)
    )


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `least`."""
    power = 10 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * 0.999)


# --- parts, facts, sources --------------------------------------------------------------------------------------------


def _parts(memory: Memory) -> str:
    rows = "".join(
        f'<tr><th scope="row"><i class="part-{name}"></i>{label}{f" <small>{note}</small>" if note else ""}</th>'
        f"<td>{formats.escape(formats.size(getattr(memory, name)))}</td></tr>"
        for name, (label, note) in PART_LABELS.items()
    )
    total = (
        f'<tr class="sum"><th scope="row">Peak, training step</th><td>{formats.escape(formats.size(memory.total))}</td></tr>'
    )
    return f'<table class="fit-parts"><caption class="unseen">Memory by part</caption><tbody>{rows}{total}</tbody></table>'


def in_comparison(measured: Measured) -> str:
    """What was predicted and what a run measured: "Predicted 14.2 GB, measured 14.0 GB; a step of 0.41 s took 0.43 s"."""
    memory = f"Predicted {formats.size(measured.predicted_bytes)}, measured {formats.size(measured.measured_bytes)}"
    if not measured.measured_step_seconds:
        return f"{memory}."
    took = f"{formats.figure(measured.measured_step_seconds)} s"
    if not measured.predicted_step_seconds:
        return f"{memory}; a step took {took}."
    return f"{memory}; a step of {formats.figure(measured.predicted_step_seconds)} s took {took}."


def _measured(measured: Measured | None) -> str:
    if measured is None:
        return ""
    return f'<p class="fit-measured"><b>A run of this plan:</b> {formats.escape(in_comparison(measured))}</p>'


def _folded(estimate: Estimate) -> str:
    """The facts; of a plan that does not fit they are folded, so that what would help comes into sight."""
    if estimate.fits != "no":
        return _facts(estimate)
    return f'<details class="fit-source fit-more"><summary>Time, cost and size</summary>{_facts(estimate)}</details>'


def _facts(estimate: Estimate) -> str:
    time, speed = estimate.total_seconds, estimate.tokens_per_second
    facts = [("Time", formats.duration(time.likely if time else None), formats.between(time, formats.duration))]
    if estimate.cost is not None:
        facts.append(
            ("Cost on a rented one", formats.money(estimate.cost.likely), formats.between(estimate.cost, formats.money))
        )
    else:
        steps = f"{formats.whole(estimate.steps)} steps" if estimate.steps is not None else ""
        facts.append(("Speed", f"{formats.count(speed.likely)} tokens/s" if speed else formats.UNKNOWN, steps))
    of_all = f"{formats.share(estimate.trainable_params, estimate.total_params)} of {formats.count(estimate.total_params)}"
    facts.append(("Trainable", formats.count(estimate.trainable_params), of_all))
    facts.append(("Disk", formats.size(estimate.disk), _merge_note(estimate)))
    cells = "".join(
        f"<div><dt>{label}</dt><dd><b>{formats.escape(value)}</b> <small>{formats.escape(note)}</small></dd></div>"
        for label, value, note in facts
    )
    return f'<dl class="fit-facts">{cells}</dl>'


def _merge_note(estimate: Estimate) -> str:
    merge = estimate.phases.get("merge")
    return f"merging needs {formats.size(merge)} of memory" if merge else ""


def _source(estimate: Estimate) -> str:
    if not estimate.source:
        return ""
    rows = "".join(
        f"<dt>{formats.escape(_source_label(name))}</dt><dd>{formats.escape(how)}</dd>" for name, how in estimate.source.items()
    )
    return f'<details class="fit-source"><summary>Where do these numbers come from?</summary><dl>{rows}</dl></details>'


def _source_label(name: str) -> str:
    words_of_it = name.removeprefix("memory.").replace("_", " ")
    return SOURCE_LABELS.get(name, words_of_it[:1].upper() + words_of_it[1:])
