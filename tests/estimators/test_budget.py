"""The parameter budget: the answer's own build has no more parameters, and one size more would have."""

from __future__ import annotations

import pytest

from engine.issues import PlanError
from engine.plan import Plan
from estimators.advice import budget

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
PLAN = Plan(model=SMALL, method="lora")


@pytest.mark.parametrize("method", ["lora", "qlora", "loha", "lokr", "prompt_tuning", "vera"])
def test_the_answer_is_the_largest_within(method: str) -> None:
    plan = PLAN.with_(method=method, quantization="nf4" if method == "qlora" else "none")
    size = budget.size_option(plan)
    limit = 3 * budget.count(plan.with_(method_options={size: 2})) // 2
    for solution in budget.solve(plan, limit):
        chosen = plan.with_(**solution.changes)
        assert budget.count(chosen) == solution.params <= limit
        larger = {**chosen.method_options, size: chosen.method_options[size] + 1}
        more = budget.count(chosen.with_(method_options=larger))
        assert more > limit or more == solution.params, "LoKr stops growing at the width of its matrices"


def test_lora_of_a_square_matrix() -> None:
    """Rank 16 on a 4096 x 4096 matrix has 131,072 parameters (https://arxiv.org/abs/2106.09685)."""
    config = {**SMALL, "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 1}
    plan = Plan(model=config, method="lora", method_options={"target_modules": ["q_proj"]})
    assert [solution.changes["method_options"]["r"] for solution in budget.solve(plan, 131_072)] == [16]
    assert [solution.changes["method_options"]["r"] for solution in budget.solve(plan, 131_071)] == [15]


def test_a_small_budget_goes_to_fewer_modules() -> None:
    everywhere = budget.count(PLAN.with_(method_options={"r": 1}))
    first, *others = budget.solve(PLAN, 2 * everywhere)
    assert first.changes["method_options"]["target_modules"] == ["q_proj", "v_proj"]
    assert first.changes["method_options"]["r"] >= 4
    assert others[0].changes["method_options"]["target_modules"] == "all-linear"


def test_a_large_budget_stays_with_all_modules() -> None:
    assert budget.solve(PLAN, 100_000)[0].changes["method_options"]["target_modules"] == "all-linear"


def test_megabytes_are_those_of_the_saved_file() -> None:
    assert budget.within_megabytes(PLAN, 4) == 1_000_000
    assert budget.within_megabytes(PLAN.with_(method="qlora", quantization="nf4"), 4) == 2_000_000
    assert budget.solve(PLAN, megabytes=0.4)[0].params <= 100_000


def test_too_small_a_budget_names_the_least() -> None:
    with pytest.raises(PlanError, match="fewer than the") as caught:
        budget.solve(PLAN, 10)
    assert caught.value.issues[0].field == "budget"


def test_a_method_without_a_size_says_so() -> None:
    with pytest.raises(PlanError, match="no size"):
        budget.solve(PLAN.with_(method="full"), 1000)


@pytest.mark.parametrize("limit", [0, 7, 100, 999, 5000, 10**9])
def test_any_growing_count_is_solved(limit: int) -> None:
    """Not only straight lines: a count that grows with the square of the size, in steps."""

    def squares(size: int) -> int:
        return 10 * (size // 3) ** 2 + 1

    found, params = budget.largest_size(squares, limit, largest=200)
    right = max((squares(size) for size in range(1, 201) if squares(size) <= limit), default=None)
    assert params == (right or squares(1))
    assert found is None if right is None else squares(found) == right


def test_a_straight_line_takes_five_counts() -> None:
    asked: list[int] = []

    def line(size: int) -> int:
        asked.append(size)
        return 100 + 37 * size

    assert budget.largest_size(line, 100 + 37 * 500)[0] == 500
    assert len(asked) <= 5
