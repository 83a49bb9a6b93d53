"""The parameter budget: "at most N trainable parameters", solved for the method's size and its target modules.

    solve(plan, 4_000_000)

The size (LoRA's rank, the number of virtual tokens) is found by counting on the model that is really built, on "meta".
For nearly all methods the count is a straight line in the size, so two builds give the answer and two more prove it;
where it is not, the range is halved. Every answer is a count of a build, never a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine import checks
from engine.issues import Issue, PlanError
from engine.methods import METHODS, option_values
from engine.plan import Plan

# The options that say how large what is added is, by their PEFT names; a method's first one counts.
SIZES = ("r", "init_r", "num_virtual_tokens", "n_frequency", "adapter_len")
LARGEST = 4096  # sizes beyond it are those of no paper
# An adapter is saved in the type that it is trained in: fp32, and bf16 beside quantised weights (TRL's SFTTrainer).
BYTES_SAVED, BYTES_SAVED_QUANTISED = 4, 2
LEAST_RANK = 4  # with fewer, fewer target modules are the better use of a budget (judgement)
ATTENTION = ("q_proj", "v_proj")  # what LoRA's paper adapts (https://arxiv.org/abs/2106.09685, section 4.2)


@dataclass(frozen=True, kw_only=True)
class Solution:
    """One way to stay within the budget. `params` is counted on the built model."""

    label: str
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the plan
    params: int


def solve(plan: Plan, params: int | None = None, megabytes: float | None = None) -> tuple[Solution, ...]:
    """The largest sizes within the budget, for each set of target modules; the recommended one first.

    Args:
        plan: a checked plan.
        params: the most trainable parameters.
        megabytes: the largest adapter file, instead (10^6 bytes).

    Raises:
        PlanError: on `method` if it has no size, on `budget` if not even the least size is within it.
    """
    budget = params if params is not None else within_megabytes(plan, megabytes or 0)
    size = size_option(plan)
    found = [_solved(plan, targets, size, budget) for targets in target_sets(plan)]
    solutions = [solution for solution in found if solution is not None]
    if not solutions:
        least = min(count(_with(plan, targets, size, 1)) for targets in target_sets(plan))
        message = f"{budget:,} parameters are fewer than the {least:,} of the smallest {METHODS[plan.method].label}."
        raise PlanError([Issue(field="budget", message=message, fix=f"Allow {least:,}, or choose a smaller method.")])
    return tuple(sorted(solutions, key=lambda solution: _size_of(solution, size) < LEAST_RANK))


def within_megabytes(plan: Plan, megabytes: float) -> int:
    """How many parameters of the plan's adapter a file of this size holds."""
    each = BYTES_SAVED if checks.quantization(plan) == "none" else BYTES_SAVED_QUANTISED
    return int(megabytes * 1e6 / each)


def size_option(plan: Plan) -> str:
    """The option that sets the size of the plan's method. Raises `PlanError` where it has none."""
    defaults = {option.name: option.default for option in METHODS[plan.method].options}
    for name in SIZES:
        if isinstance(defaults.get(name), int) and not isinstance(defaults.get(name), bool):
            return name
    label = METHODS[plan.method].label
    fix = "Choose a method that adds something, for instance LoRA."
    raise PlanError([Issue(field="method", message=f"{label} has no size that a budget could set.", fix=fix)])


def target_sets(plan: Plan) -> list[Any]:
    """The target modules to try: the plan's own, then fewer of them. [None]: the method has no such choice."""
    values = option_values(plan)
    if "target_modules" not in values:
        return [None]
    own = values["target_modules"]
    return [own] if own != "all-linear" else [own, *_fewer(plan)]


def _fewer(plan: Plan) -> Iterator[list[str]]:
    """The attention's projections that PEFT adapts in this kind of model when it is not told."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PICKED

    from engine.modeling import build

    names = PICKED.get(build.load_config(plan).get_text_config().model_type, list(ATTENTION))
    yield list(names)


def count(plan: Plan) -> int:
    """The trainable parameters of a plan, counted on the model built without memory."""
    from engine.modeling import build

    model = build.build(plan, "meta")
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _with(plan: Plan, targets: Any, size: str, value: int) -> Plan:
    options = {**plan.method_options, size: value}
    return plan.with_(method_options=options if targets is None else {**options, "target_modules": targets})


def _solved(plan: Plan, targets: Any, size: str, budget: int) -> Solution | None:
    """The largest size within the budget for one set of targets; None if the least is beyond it."""
    value, params = largest_size(lambda number: count(_with(plan, targets, size, number)), budget)
    if value is None:
        return None
    changed = _with(plan, targets, size, value)
    label = f"{size} = {value:,}"
    if targets is not None:
        label += f" on {targets if isinstance(targets, str) else ', '.join(targets)}"
    return Solution(label=label, changes={"method_options": dict(changed.method_options)}, params=params)


def largest_size(counted: Callable[[int], int], budget: int, largest: int = LARGEST) -> tuple[int | None, int]:
    """(the largest size whose count is within the budget, that count). (None, the least count) if none is.

    Args:
        counted: the parameters with a size; it grows with it, or stays.
        budget: the most parameters.
        largest: the last size to consider.
    """
    known: dict[int, int] = {}

    def ask(size: int) -> int:
        if size not in known:
            known[size] = counted(size)
        return known[size]

    if ask(1) > budget:
        return None, ask(1)
    low, high = 1, largest + 1
    guess = 2
    while high - low > 1:
        if ask(guess) <= budget:
            low = guess
        else:
            high = guess
        slope = (ask(low) - ask(1)) / (low - 1) if low > 1 else ask(2) - ask(1)
        on_line = int(low + (budget - ask(low)) / slope) if slope > 0 else largest
        straight = min(max(on_line, low), largest)
        guess = straight if low < straight < high else straight + 1
        guess = guess if low < guess < high else (low + high) // 2
    return _least_alike(ask, low), ask(low)


def _least_alike(ask: Callable[[int], int], size: int) -> int:
    """The smallest size with as many parameters: beyond a point some methods (LoKr) no longer grow with their rank."""
    low, high = 0, size
    while high - low > 1 and ask(high - 1) == ask(size):
        middle = (low + high) // 2
        low, high = (low, middle) if ask(middle) == ask(size) else (middle, high)
    return high


def _size_of(solution: Solution, size: str) -> int:
    return int(solution.changes["method_options"][size])
