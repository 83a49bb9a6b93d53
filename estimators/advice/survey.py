"""One plan on every GPU, and every method on one GPU: the same estimate, asked once per row.

A dry run does not depend on the GPU but for its number type, so all GPUs together take two or three of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from engine import data
from engine.catalog import hardware
from engine.catalog.hardware import THIS_MACHINE
from engine.issues import PlanError
from engine.methods import METHODS
from engine.pipelines.compare import with_method
from engine.plan import Plan
from engine.system.errors import in_plain_words
from estimators.estimate import Estimate
from estimators.timing import measured


@dataclass(frozen=True, kw_only=True)
class GpuRow:
    """The plan on one GPU. Figures are None where there is no estimate (`note` says why) or no published figure."""

    name: str
    gpu: str  # the plan's word for it
    precision: str  # the number type that the row was estimated with
    capacity: int
    memory: int | None
    fits: str | None
    seconds: float | None
    cost: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method on the plan's GPU. Figures are None where the method does not go with the plan (`note` says why)."""

    key: str
    label: str
    trainable_params: int | None
    total_params: int | None
    memory: int | None
    fits: str | None
    seconds: float | None
    note: str = ""


def gpu_survey(plan: Plan) -> list[GpuRow]:
    """The plan on this machine and on every GPU of the table, in the table's order."""
    rows = [row for group in gpu_groups(plan) for row in gpu_group(plan, group)]
    return in_table_order(rows)


def gpu_groups(plan: Plan) -> list[str]:
    """The groups of GPUs that one dry run answers for each, the one that is known already first, this machine last.

    A group is a number type, or this machine. Standard library only: a page can ask for one group after the other.
    """
    precisions = {precision_on(plan, gpu) for gpu in hardware.gpus().values()}
    first = precision_on(plan, hardware.find_gpu(plan.gpu))
    return [*sorted(precisions, key=lambda precision: (precision != first, precision)), THIS_MACHINE]


def gpu_group(plan: Plan, group: str) -> list[GpuRow]:
    """The rows of one group of `gpu_groups`."""
    if group == THIS_MACHINE:
        return gpu_rows(plan, (THIS_MACHINE,))
    return gpu_rows(plan, (name for name, gpu in hardware.gpus().items() if precision_on(plan, gpu) == group))


def in_table_order(rows: Iterable[GpuRow]) -> list[GpuRow]:
    """Rows of several groups as the table has them: this machine first."""
    order = {name: number for number, name in enumerate((THIS_MACHINE, *hardware.gpus()))}
    return sorted(rows, key=lambda row: order.get(row.gpu, len(order)))


def gpu_rows(plan: Plan, names: Iterable[str]) -> list[GpuRow]:
    """The plan on some GPUs, on each in the number type that it would be planned with there."""
    known: dict[tuple[str, bool], tuple[Estimate | None, str]] = {}
    return [_gpu_row(plan, name, known) for name in names]


def _gpu_row(plan: Plan, name: str, known: dict[tuple[str, bool], tuple[Estimate | None, str]]) -> GpuRow:
    """One row. `known` has the first answer for each number type, from which the others differ by the GPU alone."""
    from estimators.estimator import on_another_gpu

    gpu = hardware.find_gpu(name)
    precision = precision_on(plan, gpu)
    here = plan.with_(gpu=name, precision=precision)
    kind = (precision, gpu.is_cpu)
    if kind not in known:
        known[kind] = _asked(here)
    first, problem = known[kind]
    found = on_another_gpu(here, first) if first else None
    adapted = f"in {precision} instead of {plan.precision}" if precision != plan.precision else ""
    return GpuRow(
        name=gpu.name,
        gpu=name,
        precision=precision,
        capacity=gpu.memory,
        memory=found.memory.total if found else None,
        fits=found.fits if found else None,
        seconds=_seconds(found),
        cost=found.cost.likely if found and found.cost else None,
        note=problem or adapted,
    )


def precision_on(plan: Plan, gpu: hardware.Gpu) -> str:
    """The plan's number type; the recommended one where the card lacks it, or where the plan follows the recommendation."""
    recommended = hardware.recommended_precision(gpu)
    follows = plan.precision == hardware.recommended_precision(hardware.find_gpu(plan.gpu))
    lacks = (plan.precision == "bf16" and not gpu.bf16) or (plan.precision == "fp16" and gpu.is_cpu)
    return recommended if follows or lacks else plan.precision


def method_survey(plan: Plan) -> list[MethodRow]:
    """Every method on the plan's GPU."""
    return [method_row(plan, key) for key in METHODS]


def method_row(plan: Plan, key: str) -> MethodRow:
    """The plan with another method and that method's own defaults; with the plan's own method, the plan as it is.

    Remembered: an idle process asks for all methods in advance, and a person for all of them at once.
    """
    known = (key, *_what_decides(plan))
    if known not in _rows:
        row = as_row(key, *_asked(with_method(plan, key)))
        if row.note:
            return row  # what was wrong may be mended
        _rows[known] = row
    _rows.move_to_end(known)
    while len(_rows) > ROWS_KEPT:
        _rows.popitem(last=False)
    return _rows[known]


ROWS_KEPT = 8 * len(METHODS)
_rows: OrderedDict[Hashable, MethodRow] = OrderedDict()


def _what_decides(plan: Plan) -> tuple[Hashable, ...]:
    """All that a row depends on: the plan, its data as they are now, its GPU, and what runs there have taught."""
    gpu = hardware.find_gpu(plan.gpu)
    return plan.to_json(), data.fingerprint(plan.datasets), repr(gpu), measured.correction(gpu.name)


def as_row(key: str, found: Estimate | None, problem: str) -> MethodRow:
    """A method's estimate as a row; None with the problem that there is instead."""
    return MethodRow(
        key=key,
        label=METHODS[key].label,
        trainable_params=found.trainable_params if found else None,
        total_params=found.total_params if found else None,
        memory=found.memory.total if found else None,
        fits=found.fits if found else None,
        seconds=_seconds(found),
        note=problem,
    )


def _asked(plan: Plan) -> tuple[Estimate | None, str]:
    """(the estimate, ""), or (None, why there is none)."""
    from estimators.estimator import estimate  # brings torch: the page reads this module without it

    try:
        with in_plain_words():
            return estimate(plan), ""
    except PlanError as error:
        return None, error.issues[0].sentence() if error.issues else str(error)


def _seconds(found: Estimate | None) -> float | None:
    return found.total_seconds.likely if found and found.total_seconds else None
