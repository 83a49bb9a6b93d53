"""The endpoints for programs: asked through gradio_client of the real app, with plain JSON in and out."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio_client
import pytest
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from engine.catalog import hardware
from engine.catalog.hardware import THIS_MACHINE
from engine.data.demos import first_plan
from engine.methods import METHODS
from engine.plan import Plan
from estimators.advice.limits import LIMITED
from estimators.service import client
from estimators.service.client import Estimator
from ui.web import api

ROOT = Path(__file__).resolve().parents[2]
PLAN = first_plan().with_(gpu="RTX 4090", precision="bf16")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gradio_client.Client]:
    """The real app on a free port, with a data folder of its own."""
    environment = {**os.environ, "FITTINGROOM_HOME": str(tmp_path_factory.mktemp("api")), "PORT": "7941"}
    command = [sys.executable, "app.py", "--mcp"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = re.search(r"open at (http://\S+)", process.stdout.readline())
        assert url is not None
        yield gradio_client.Client(url[1], verbose=False)
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_every_endpoint_is_described(app: gradio_client.Client) -> None:
    described = app.view_api(return_format="dict", print_info=False)["named_endpoints"]
    for name in ("estimate", "which_gpus", "which_methods", "fixes", "limits", "parameter_budget", "search_models"):
        assert described[f"/{name}"]["description"].startswith(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")), name
        assert all(one["python_type"]["type"] for one in described[f"/{name}"]["parameters"]), name


def test_an_estimate_is_that_of_the_page(app: gradio_client.Client) -> None:
    found = app.predict(plan_json=PLAN.to_json(), api_name="/estimate")
    assert found["fits"] == "yes"
    assert found["memory"]["capacity"] == hardware.gpus()["RTX 4090"].memory
    assert found["trainable_params"] < found["total_params"]


def test_which_gpus_has_them_all(app: gradio_client.Client) -> None:
    rows = app.predict(plan_json=PLAN.to_json(), api_name="/which_gpus")["gpus"]
    assert [row["gpu"] for row in rows] == [THIS_MACHINE, *hardware.gpus()]
    assert next(row for row in rows if row["name"] == "RTX 4090")["fits"] == "yes"


def test_a_plan_that_fits_needs_no_fixes(app: gradio_client.Client) -> None:
    assert app.predict(plan_json=PLAN.to_json(), api_name="/fixes") == {"fixes": []}


def test_a_budget_is_solved(app: gradio_client.Client) -> None:
    found = app.predict(plan_json=PLAN.to_json(), budget="100,000", api_name="/parameter_budget")["solutions"]
    assert 0 < found[0]["params"] <= 100_000
    assert found[0]["changes"]["method_options"]["r"] >= 1


@pytest.mark.parametrize(
    ("plan_json", "endpoint", "sentence"),
    [
        ("{", "/estimate", "not valid JSON"),
        (json.dumps({"modle": "demo/llama"}), "/estimate", "Did you mean model"),
        (json.dumps({"gpu": "L40s"}), "/which_gpus", "Did you mean L40S"),
        (json.dumps({"method": "loraa"}), "/fixes", "Method: 'loraa' is not a method. Did you mean lora"),
    ],
)
def test_a_mistake_is_one_sentence(app: gradio_client.Client, plan_json: str, endpoint: str, sentence: str) -> None:
    with pytest.raises(AppError, match=sentence):
        app.predict(plan_json=plan_json, api_name=endpoint)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"query": "qwen3 8b"}, "Qwen/Qwen3-8B"),
        ({"query": "llama", "license": "llama3.1"}, "meta-llama/Llama-3.1-8B"),
        ({"query": "bert", "task": "masked-lm"}, "google-bert/bert-base-uncased"),
        ({"family": "pythia", "largest": 0.1}, "EleutherAI/pythia-70m"),
    ],
)
def test_models_are_found(app: gradio_client.Client, query: dict, expected: str) -> None:
    found = app.predict(**query, api_name="/search_models")["models"]
    assert expected in [model["id"] for model in found]
    assert len(found) < 30


def test_gated_models_say_so(app: gradio_client.Client) -> None:
    found = app.predict(query="gated llama", api_name="/search_models")["models"]
    assert found
    assert all(model["gated"] for model in found)


TINY = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def endpoints() -> Iterator[dict[str, Callable[..., dict]]]:
    """The functions behind the endpoints, with a process of their own."""
    estimator = Estimator()
    yield {function.__name__: function for function in api.endpoints(estimator)}
    estimator.close()


def test_limits_are_those_of_the_model(endpoints: dict[str, Callable[..., dict]]) -> None:
    plan = Plan(model=TINY, method="full", gpu="RTX 2060", precision="fp16", max_length=64, per_device_train_batch_size=4)
    found = {row["field"]: row for row in endpoints["limits"](plan.to_json())["limits"]}
    assert list(found) == list(LIMITED)
    assert found["per_device_train_batch_size"]["value"] > 4
    assert found["max_length"]["value"] > 64


def test_which_methods_has_a_row_for_each(endpoints: dict[str, Callable[..., dict]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of them: all take half a minute."""
    monkeypatch.setattr(client, "METHODS", {key: METHODS[key] for key in ("full", "lora", "bitfit")})
    plan = Plan(model=TINY, gpu="RTX 4090", precision="bf16", max_length=64)
    rows = {row["key"]: row for row in endpoints["which_methods"](plan.to_json())["methods"]}
    assert list(rows) == ["full", "lora", "bitfit"]
    assert rows["full"]["trainable_params"] == rows["full"]["total_params"] > rows["lora"]["trainable_params"]
    assert rows["lora"]["fits"] == "yes"
    assert rows["bitfit"]["memory"] is None
    assert "bias" in rows["bitfit"]["note"]


def test_the_same_is_served_as_tools(app: gradio_client.Client) -> None:
    """A program that speaks MCP sees the same questions with their words, and nothing else."""
    tools, found = asyncio.run(over_mcp(f"{app.src}tools/gradio_api/mcp", "estimate", {"plan_json": PLAN.to_json()}))
    assert set(tools) == {function.__name__ for function in api.endpoints(Estimator())}
    assert all(tools.values()), "each says what it answers"
    assert json.loads(found) == app.predict(plan_json=PLAN.to_json(), api_name="/estimate")


async def over_mcp(url: str, name: str, arguments: dict[str, str]) -> tuple[dict[str, str], str]:
    """(what each tool says of itself, the answer of one of them)."""
    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        tools = {tool.name: tool.description or "" for tool in (await session.list_tools()).tools}
        return tools, (await session.call_tool(name, arguments)).content[0].text


def test_nothing_that_changes_anything_is_a_tool() -> None:
    blocks = api.tools(Estimator())
    names = set(blocks.get_api_info()["named_endpoints"])
    assert names == {f"/{function.__name__}" for function in api.endpoints(Estimator())}
    assert not names & {"/start", "/stop", "/merge", "/ask"}
    assert len(METHODS) > 2
