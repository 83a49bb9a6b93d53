"""Forms: what PEFT's annotations become, and which values are of them."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from peft import EvaConfig

from assets.build_method_options import form_of
from engine.adapters import option_forms

EVA = form_of(EvaConfig | None)


def test_a_nested_config_is_declared_with_its_fields() -> None:
    assert EVA["either"][0]["config"]["rho"] == "number"
    assert EVA["either"][1] == "null"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ([1, 2], list[int] | dict[str, list[int]] | None),
        ({"a": [1]}, list[int] | dict[str, list[int]] | None),
        (None, list[int] | None),
        ([[0, 1]], list[tuple[int, int]]),
        ("pissa_niter_16", bool | Literal["gaussian", "pissa_niter_[number of iters]"]),
        (True, bool | Literal["gaussian"]),
        (3, float),
        ({"rho": 1}, EvaConfig),
        ({}, EvaConfig),
    ],
)
def test_a_value_of_the_form_is_taken(value: Any, hint: Any) -> None:
    assert list(option_forms.problems(value, form_of(hint), "x")) == []


@pytest.mark.parametrize(
    ("value", "hint", "field"),
    [
        ("x", list[int] | None, "x"),
        ({"a": ["b"]}, list[int] | dict[str, list[int]] | None, "x.a[0]"),
        (True, int, "x"),
        ([[0]], list[tuple[int, int]], "x[0]"),
        ("pissa_niter_", Literal["pissa_niter_[number of iters]"], "x"),
        ("pissa_niter_9999", Literal["pissa_niter_[number of iters]"], "x"),
        ({"rho": "big"}, EvaConfig, "x.rho"),
        ({"no such": 1}, EvaConfig | None, "x.no such"),
        ("x", EvaConfig | None, "x"),
        (2**40, int, "x"),
    ],
)
def test_a_value_of_another_form_is_named_where_it_is(value: Any, hint: Any, field: str) -> None:
    issues = list(option_forms.problems(value, form_of(hint), "x"))
    assert [issue.field for issue in issues] == [field]
    assert issues[0].fix.startswith("Use ")
