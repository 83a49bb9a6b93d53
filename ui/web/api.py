"""The planner for programs: the page's questions as endpoints of the Gradio API, read-only, with plain JSON answers.

    client = gradio_client.Client("http://127.0.0.1:7860")
    client.predict(plan_json='{"model": "Qwen/Qwen3-8B", "method": "qlora", "gpu": "RTX 4090"}', api_name="/estimate")

`add(estimator)` declares them on a page; `tools(estimator)` is a page of nothing else, which `app.py --mcp` serves as
tools of the Model Context Protocol. Nothing here starts, stops or writes anything.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from engine import checks, json_input
from engine.catalog import models
from engine.issues import Issue, PlanError, quoted
from engine.plan import Plan
from estimators.advice.limits import LIMITED
from ui.web.handlers import guarded, sentence
from ui.web.policy import Need

if TYPE_CHECKING:
    from estimators.service.client import Estimator

MOST_MODELS = 100  # of one search


def add(estimator: Estimator) -> None:
    """Declare the endpoints in the page that is being built."""
    for function in endpoints(estimator):
        gr.api(guarded(_in_plain_text(function), Need.TOKEN), api_name=function.__name__, concurrency_limit=2)


def _in_plain_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose issues are told as text: a program shows no HTML, in which the page's messages are."""

    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> Any:
        try:
            return function(*arguments, **values)
        except PlanError as error:
            raise gr.Error(sentence(error), print_exception=False) from error

    return call


def tools(estimator: Estimator) -> gr.Blocks:
    """A page with these endpoints alone, whose answers are JSON as text: what an assistant may call."""
    with gr.Blocks(title="Fitting Room's planner", analytics_enabled=False) as blocks:
        for function in endpoints(estimator):
            gr.api(guarded(_in_plain_text(_as_json(function)), Need.TOKEN), api_name=function.__name__, concurrency_limit=2)
    return blocks


def _as_json(function: Callable[..., Any]) -> Callable[..., str]:
    """The function with its answer as JSON: Gradio's tools would give an object as Python writes it."""

    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> str:
        return json.dumps(function(*arguments, **values))

    call.__annotations__ = {**function.__annotations__, "return": "str"}
    return call


def endpoints(estimator: Estimator) -> tuple[Callable[..., dict[str, Any]], ...]:
    """The functions behind the endpoints. Their docstrings are what a program (and an assistant) reads of them."""

    def estimate(plan_json: str) -> dict:
        """What a fine-tune needs: memory by part, time, cost, parameters, and whether it fits.

        Args:
            plan_json: the plan as a JSON object, for instance {"model": "Qwen/Qwen3-8B", "method": "lora", "gpu": "L40S"}.

        Returns:
            The estimate: bytes, seconds and US dollars. "fits" is yes, tight or no; "source" says where each figure is from.
        """
        return estimator.ask(_plan(plan_json)).to_dict()

    def which_gpus(plan_json: str) -> dict:
        """The same fine-tune on this machine and on every GPU of the table: does it fit, how long, what does it cost.

        Args:
            plan_json: the plan as a JSON object; its own GPU does not matter.

        Returns:
            {"gpus": [{"name", "fits", "memory", "capacity", "seconds", "cost", "precision", "note"}]}, in bytes and seconds.
        """
        *_, rows = estimator.gpu_survey(_plan(plan_json))  # each time all that is known: the last one is whole
        return {"gpus": [dataclasses.asdict(row) for row in rows]}

    def which_methods(plan_json: str) -> dict:
        """Every fine-tuning method on the plan's GPU: does it fit, how many parameters it trains, how long it takes.

        Args:
            plan_json: the plan as a JSON object; its own method does not matter.

        Returns:
            {"methods": [{"key", "label", "fits", "memory", "trainable_params", "total_params", "seconds", "note"}]}.
        """
        return {"methods": [dataclasses.asdict(row) for row in estimator.method_survey(_plan(plan_json))]}

    def fixes(plan_json: str) -> dict:
        """What would make a plan fit: changes, each one estimated, from the cheapest to the dearest.

        Args:
            plan_json: the plan as a JSON object.

        Returns:
            {"fixes": [{"label", "changes", "memory_saved", "time_factor", "fits", "note"}]}; empty if the plan fits.
        """
        return {"fixes": [dataclasses.asdict(fix) for fix in estimator.fixes(_plan(plan_json))]}

    def limits(plan_json: str) -> dict:
        """The largest batch and the longest sequence with which a plan still fits on its GPU.

        Args:
            plan_json: the plan as a JSON object.

        Returns:
            {"limits": [{"field", "value", "at_the_end"}]}; "value" is null where not even the least fits.
        """
        plan = _plan(plan_json)
        return {"limits": [dataclasses.asdict(estimator.limit(plan, field)) for field in LIMITED]}

    def parameter_budget(plan_json: str, budget: str) -> dict:
        """The largest rank (and its target modules) with at most so many trainable parameters, or so large a file.

        Args:
            plan_json: the plan as a JSON object; its method must have a size (a rank, a number of virtual tokens).
            budget: a number of parameters ("4000000"), or the size of the adapter's file ("16 MB").

        Returns:
            {"solutions": [{"label", "changes", "params"}]}, the recommended one first.
        """
        return {"solutions": [dataclasses.asdict(one) for one in estimator.budget(_plan(plan_json), _text("budget", budget))]}

    def search_models(query: str = "", task: str = "", family: str = "", license: str = "", largest: float = 0) -> dict:
        """Models of the catalogue, by words of their name, and by task, family, licence and size.

        Args:
            query: words that the name, the family, the task or the licence hold, or a size like "7b"; empty for all.
            task: causal-lm, masked-lm, seq2seq-lm, image-classification, ...; empty for all.
            family: Llama, Qwen3, BERT, ...; empty for all.
            license: apache-2.0, mit, llama3.1, ...; empty for all.
            largest: the most parameters in billions; 0 for any size.

        Returns:
            {"models": [{"id", "title", "family", "task", "license", "gated", "params", "context_length"}]}.
        """
        words = {"query": query, "task": task, "family": family, "license": license}
        query, task, family, license = (_text(name, value) for name, value in words.items())
        billions = _amount("largest", largest)
        found = models.search(query, task=task, family=family, license=license, largest=billions * 1e9 or None)
        return {"models": [_described(model) for model in found[:MOST_MODELS]]}

    return estimate, which_gpus, which_methods, fixes, limits, parameter_budget, search_models


def _plan(plan_json: Any) -> Plan:
    """The plan of a request, checked: the text of its JSON, or the object itself. Raises `PlanError`."""
    if isinstance(plan_json, Mapping):
        plan = Plan.from_dict(plan_json)
    else:
        plan = Plan.from_json(_text("plan_json", plan_json, longest=json_input.MOST_BYTES))
    errors = [issue for issue in checks.check(plan) if issue.severity == "error"]
    if errors:
        raise PlanError(errors)
    return plan


LONGEST_ARGUMENT = 1000  # characters of a query or a budget


def _text(name: str, value: Any, *, longest: int = LONGEST_ARGUMENT) -> str:
    """An argument that must be a text. A program may send any JSON value, whatever the endpoint declares.

    Raises:
        PlanError: on the argument.
    """
    if not isinstance(value, str):
        raise PlanError([Issue(field=name, message=f"{quoted(value)} is not a text.", fix="Send a JSON string.")])
    if len(value) > longest:
        message = f"is {len(value):,} characters long."
        raise PlanError([Issue(field=name, message=message, fix=f"Send at most {longest:,}.")])
    wrong = json_input.problems(value, name)
    if wrong:
        raise PlanError(wrong)
    return value


def _amount(name: str, value: Any) -> float:
    """An argument that must be a number from 0 up. Raises `PlanError` on the argument."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= LARGEST_AMOUNT:
        message = f"{quoted(value)} is not a number from 0 to {LARGEST_AMOUNT:,}."
        raise PlanError([Issue(field=name, message=message, fix="Send 0 for any size.")])
    return float(value)


LARGEST_AMOUNT = 1_000_000  # billions of parameters: a thousand times the largest model


def _described(model: models.Model) -> dict[str, Any]:
    names = ("id", "title", "family", "task", "license", "gated", "params", "context_length")
    return {name: getattr(model, name) for name in names}
