"""A plan from a stranger is either priced or refused, in one sentence that names the field; nothing else can happen.

Whatever JSON value stands wherever in a plan, a chain or a request: no exception leaves the checks, no "unexpected fault"
leaves the estimator, and neither grows without bound. Options that would open a file, a hub id or a module are refused,
and so are regular expressions that never end.

    pytest tests/security/test_plans.py --fuzz 3000    a longer fuzz, with other plans than the normal tests
"""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from engine import checks, json_input
from engine.adapters import patterns
from engine.catalog import models
from engine.issues import MOST_FIELD, MOST_MESSAGE, Issue, PlanError
from engine.methods import METHODS
from engine.plan import MOST_DATASETS, DataSource, Plan
from estimators.service.client import Estimator
from tests.security import mutations
from ui.plan import form
from ui.web import api, border

ROUNDS = 150
MOST_GROWTH = 2**30  # bytes of the estimator's process
MOST_SECONDS = 100.0  # of one answer, on a machine that has other work
FIELD = re.compile(r"^[^:]{1,200}: .+")
FAULT = "unexpected fault"


def refusal(values: Any) -> list[Issue]:
    """What is wrong with a plan, as whoever sends it hears it. Any other exception fails the test."""
    try:
        plan = Plan.from_dict(values)
    except PlanError as error:
        return list(error.issues)
    return [issue for issue in checks.check(plan) if issue.severity == "error"]


def sentences(issues: list[Issue]) -> str:
    return " ".join(issue.sentence() for issue in issues)


class Asked:
    """`python -m estimators --jsonl`, asked line by line, with an eye on its memory."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "estimators", "--jsonl"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._pump, daemon=True).start()
        self.answer(mutations.BASE | mutations.SOUND[0], seconds=300)  # imports torch, which is no growth
        self.start = self.memory()

    def _pump(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def answer(self, values: Any, seconds: float = MOST_SECONDS) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(values) + "\n")
        self.process.stdin.flush()
        line = self.answers.get(timeout=seconds)
        assert line, "the process has ended"
        return json.loads(line)

    def memory(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FITTINGROOM_HOME", str(tmp_path_factory.mktemp("fuzz")))
        asked = Asked()
    yield asked
    asked.close()


# --- any plan -------------------------------------------------------------------------------------------------------


def test_a_mutated_plan_is_priced_or_refused_by_the_name_of_its_field(estimator: Asked, request: pytest.FixtureRequest) -> None:
    longer = int(request.config.getoption("--fuzz"))
    seeds = range(ROUNDS, ROUNDS + longer) if longer else range(ROUNDS)
    priced = 0
    for seed in seeds:
        values = mutations.plan(seed)
        issues = refusal(values)
        assert all(FIELD.match(issue.sentence()) for issue in issues), (seed, sentences(issues))
        if issues and seed % 10:
            continue  # the estimator says the same
        reply = estimator.answer(values) if _is_sendable(values) else {"error": sentences(issues)}
        assert FAULT not in reply.get("error", ""), (seed, reply["error"])
        assert "error" not in reply or FIELD.match(reply["error"]), (seed, reply["error"])
        priced += "error" not in reply
        assert estimator.memory() - estimator.start < MOST_GROWTH, seed
    assert priced > len(seeds) / 20, "the plans are not all nonsense"


def _is_sendable(values: Any) -> bool:
    """Whether Python itself writes it as JSON: not integers of over 4,300 digits."""
    try:
        return len(json.dumps(values)) < 10**6
    except (ValueError, RecursionError):
        return False


NESTED = [
    (method.key, option.name)
    for method in METHODS.values()
    for option in method.options
    if option.knob.form is not None and method.key in ("lora", "adalora", "lokr", "prompt_tuning", "trainable_tokens", "osf")
]


@pytest.mark.parametrize(("method", "option"), NESTED)
@pytest.mark.parametrize("value", ["x", [["x"]], {"no such field": "x"}, [{"x": None}]], ids=repr)
def test_an_option_that_peft_declares_as_an_object_takes_no_other_form(method: str, option: str, value: Any) -> None:
    plan = {"model": "gpt2" if method == "osf" else "demo/llama", "method": method, "method_options": {option: value}}
    issues = refusal(plan)
    assert issues, "PEFT declares no such form"
    assert issues[0].field.startswith(option)


def test_a_nested_config_of_the_right_form_is_priced(estimator: Asked) -> None:
    options = {"rank_pattern": {"q_proj": 2}, "runtime_config": {"ephemeral_gpu_offload": False}, "kasa_config": {"beta": 1e-4}}
    reply = estimator.answer(mutations.BASE | {"model": mutations.TINY, "method_options": {"r": 4, **options}})
    assert reply.get("fits") == "yes", reply


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"layers_pattern": "layers", "target_modules": "all-linear"}, "layers_pattern"),
        ({"trainable_token_indices": {"embed_tokens": "x"}}, "trainable_token_indices.embed_tokens"),
        ({"trainable_token_indices": "x"}, "trainable_token_indices"),
        ({"alora_invocation_tokens": "x"}, "alora_invocation_tokens"),
        ({"modules_to_save": [5]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": "x"}}, "rank_pattern.q_proj"),
        ({"layer_replication": [[1]]}, "layer_replication[0]"),
        ({"loftq_config": {"loftq_bits": "4"}}, "loftq_config.loftq_bits"),
    ],
)
def test_forms_that_do_not_go_together_name_their_option(estimator: Asked, options: dict, field: str) -> None:
    reply = estimator.answer(mutations.BASE | {"model": mutations.TINY, "method_options": options})
    assert reply["issues"][0]["field"] == field, reply


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text_config", True),
        ("text_config", [1]),
        ("quantization_config", [1]),
        ("id2label", "x"),
        ("id2label", 0.5),
        ("num_labels", "x"),
        ("dtype", "zz"),
        ("hidden_act", 5),
        ("rope_parameters", "x"),
        ("layer_types", "x"),
        ("hidden_size", "big"),
        ("hidden_size", -64),
        ("hidden_size", 10**9),
        ("num_hidden_layers", 10**6),
        ("head_dim", 10**14),
        ("num_experts", 10**6),
        ("chunk_size_feed_forward", {"x": 1}),
    ],
)
def test_a_config_value_of_a_wrong_type_or_size_is_named_before_torch_is_needed(name: str, value: Any) -> None:
    start = time.monotonic()
    for inner in (mutations.TINY | {name: value}, {"model_type": "llava", "text_config": mutations.TINY | {name: value}}):
        issues = refusal({"model": inner})
        assert issues, "it was taken"
        assert issues[0].field.startswith("model")
        assert name in issues[0].sentence()
    assert time.monotonic() - start < 5


def test_every_config_of_the_catalogue_passes() -> None:
    for model in models.catalogue().values():
        if model.config is not None:
            assert models.find(dict(model.config)).config, model.id


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({f"key {number}": number for number in range(99_000)}, "key 0"),
        ({"x": [0] * 200_000}, "plan"),
        ({"k" * 10**6: 1}, "plan"),
        ({"gpu": "g" * 10**6}, "gpu"),
        ({"method": "m" * 10**6}, "method"),
        ({"seed": 10**400}, "seed"),
        ({"seed": 10**5000}, "seed"),
        ({"max_length": float("nan")}, "max_length"),
        ({"model": {"model_type": "llama", "x": 2**80}}, "model.x"),
        ({"method_options": {"r": 10**5000}}, "method_options.r"),
        ({"datasets": [{"path": "demo/pirate"}] * (MOST_DATASETS + 1)}, "datasets"),
        ({"datasets": [{"path": "demo/pirate", "weight": 1e300}]}, "datasets[0].weight"),
        ({"datasets": [{"path": "demo/pirate", "weight": 10**400}]}, "datasets[0].weight"),
        ({"datasets": [{"path": "demo/pirate", "columns": {"a": {"b": 1}}}]}, "datasets[0].columns.a"),
        ({"gpu": "\ud800"}, "gpu"),
        ({"gpu": "a\0b"}, "gpu"),
        ({"method": ["lora"]}, "method"),
        ({1: 2}, "plan"),
    ],
)
def test_what_is_too_large_or_no_json_is_refused_at_once_and_briefly(values: Any, field: str) -> None:
    start = time.monotonic()
    issues = refusal(values)
    assert issues[0].field == field
    assert len(sentences(issues)) < 6 * (MOST_FIELD + 2 * MOST_MESSAGE) / 4
    assert sentences(issues).encode("utf-8"), "it can be sent"
    assert time.monotonic() - start < 5


def test_text_of_any_depth_and_size_is_refused() -> None:
    for text in ("[" * 10**6, '{"a":' * 10**5, '{"seed": ' + "9" * 5000 + "}", '{"gpu": "' + "x" * 3 * 10**6 + '"}'):
        with pytest.raises(PlanError) as refused:
            Plan.from_json(text)
        assert len(str(refused.value)) < 500
    with pytest.raises(PlanError, match="nested more than 32"):
        Plan.from_json('{"model": ' + "[" * 40 + "]" * 40 + "}")


def test_rows_times_weight_are_bounded(estimator: Asked) -> None:
    data = [{"path": "demo/pirate", "weight": 10_000}]
    reply = estimator.answer(mutations.BASE | {"model": "demo/llama", "datasets": data})
    assert reply["issues"][0]["field"] == "datasets[0].weight"
    plan = Plan(max_length=64, datasets=(DataSource(path="demo/pirate", weight=10_000),))
    assert "datasets[0].weight" in [issue.field for issue in checks.check_start(plan)]


def test_a_plan_is_json_and_nothing_else() -> None:
    bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n"
    for text in ("!!python/object/apply:os.system ['true']", bomb, "model: demo/llama\n", "<plan/>", "", "\ufeff{}"):
        with pytest.raises(PlanError, match="a plan is JSON, not YAML"):
            Plan.from_json(text)


def test_a_plan_with_data_alone_works(estimator: Asked) -> None:
    assert refusal({"datasets": [{"path": "demo/pirate"}]}) == []
    assert Plan.from_dict({}).max_length == models.find(Plan.model).context_length
    assert Plan.from_dict({"model": "Qwen/Qwen3-0.6B"}).max_length == Plan.max_length


# --- what an option may open ----------------------------------------------------------------------------------------

OPENING = [
    ("prompt_tuning", {"tokenizer_name_or_path": "/etc"}),
    ("prompt_tuning", {"tokenizer_name_or_path": "../../x"}),
    ("prompt_tuning", {"tokenizer_kwargs": {"tokenizer_file": "/etc/passwd"}}),
    ("prompt_tuning", {"tokenizer_kwargs": {"trust_remote_code": True}}),
    ("prompt_tuning", {"tokenizer_kwargs": {"cache_dir": "/tmp"}}),
    ("multitask_prompt_tuning", {"prompt_tuning_init_state_dict_path": "/etc/passwd"}),
    ("multitask_prompt_tuning", {"prompt_tuning_init_state_dict_path": "canary.bin"}),
    ("lora", {"megatron_core": "os"}),
    ("lora", {"megatron_config": {"x": 1}}),
    ("lora", {"corda_config": {"cache_file": "/etc/passwd"}}),
    ("lora", {"base_model_name_or_path": "/etc"}),
    ("lora", {"auto_mapping": {"parent_library": "os"}}),
    ("lora", {"revision": "x"}),
]


@pytest.mark.parametrize(("method", "options"), OPENING)
def test_an_option_opens_no_file_and_imports_no_module(method: str, options: dict) -> None:
    issues = refusal({"method": method, "method_options": options})
    assert issues[0].field.split(".")[0] == next(iter(options))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"method": "prompt_tuning", "method_options": {"tokenizer_name_or_path": "gpt2"}}, "tokenizer_name_or_path"),
        (
            {"method": "multitask_prompt_tuning", "method_options": {"prompt_tuning_init_state_dict_path": "x.safetensors"}},
            "prompt_tuning_init_state_dict_path",
        ),
        ({"objective": "distillation", "objective_options": {"teacher": "/etc"}}, "teacher"),
        ({"objective": "rlhf", "objective_options": {"reward_model": "./x"}}, "reward_model"),
        ({"objective": "grpo", "objective_options": {"reward_funcs": ["/etc/x.py:f"]}}, "reward_funcs"),
        ({"model": "/etc"}, "model"),
        ({"datasets": [{"path": "/etc/passwd"}]}, "datasets"),
    ],
)
def test_a_server_for_others_opens_nothing_that_a_plan_names(values: dict, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITTINGROOM_LOCAL_PATHS", "0")
    monkeypatch.setenv("FITTINGROOM_REWARD_FILES", "1")
    assert field in [issue.field for issue in refusal(values)]


SOURCES = ("/etc/*", "https://x/y.jsonl", "hf://../..", "zip://x", "file:///etc/passwd", "http://127.0.0.1\\@evil", "s3://x/y")


@pytest.mark.parametrize("path", [*SOURCES, "a" * 5000, "~nobody/x.jsonl", "/" + "b" * 300 + ".jsonl", "../../etc/x.jsonl"])
def test_a_data_set_is_a_demo_an_upload_or_a_hub_id(path: str) -> None:
    issues = refusal({"datasets": [{"path": path}]})
    assert issues[0].field == "datasets"
    assert len(issues[0].sentence()) < 300


def test_sources_are_refused_before_the_library_that_would_open_them_is_imported() -> None:
    script = (
        "import sys\nfrom engine import checks\nfrom engine.plan import Plan\n"
        f"for path in {SOURCES!r}:\n"
        "    assert checks.check(Plan.from_dict({'datasets': [{'path': path}]}))\n"
        "print('datasets' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "words", ["/" + "m" * 5000, "~nobody/x", "http://169.254.169.254/x", "file:///etc", "../x", "a" * 10**5]
)
def test_a_model_that_is_none_is_one_short_sentence(words: str) -> None:
    issues = refusal({"model": words})
    assert [issue.field for issue in issues] == ["model"]
    assert len(issues[0].sentence()) < 500


# --- regular expressions --------------------------------------------------------------------------------------------

ENDLESS = (r"([a-z0-9_]+\.?)+!", r"(.*)*x!", r"(a|a)+!", r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)!", r"((\w+)[._]?)*\s")
PLACES: dict[str, Callable[[str], dict]] = {
    "target_modules": lambda pattern: {"target_modules": pattern},
    "exclude_modules": lambda pattern: {"exclude_modules": pattern},
    "modules_to_save": lambda pattern: {"modules_to_save": [pattern]},
    "rank_pattern": lambda pattern: {"rank_pattern": {pattern: 4}},
    "alpha_pattern": lambda pattern: {"alpha_pattern": {pattern: 4}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_pattern_that_never_ends_is_refused_by_the_name_of_its_option(place: str) -> None:
    start = time.monotonic()
    for pattern in ENDLESS if place == "target_modules" else ENDLESS[:1]:
        issues = refusal({"method_options": PLACES[place](pattern)})
        assert [issue.field for issue in issues] == [place], pattern
        assert "too long to match" in issues[0].message
    assert time.monotonic() - start < patterns.WALL_SECONDS, "a quarter of a second each"


def test_a_pattern_that_is_slow_on_the_models_own_names_alone_is_refused_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SAMPLE", ("x",))
    plan = {"method_options": {"target_modules": ENDLESS[0]}}
    assert refusal(plan) == []
    with pytest.raises(PlanError, match="target_modules: this regular expression takes too long"):
        patterns.refuse_slow(patterns.of_options(plan["method_options"]), ["model.layers.11.self_attn.q_proj"])


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|v)_proj",
        r"^(?!.*vision_tower).*\.(?:q_proj|v_proj)$",
        r"model\.layers\.(\d+)\.self_attn\.[qkv]_proj",
        r".*(?<!lm_head)(q_proj|k_proj)$",
        r"(.*\.)?layers\.(0|1)\..*_proj",
    ],
)
def test_ordinary_patterns_are_taken(pattern: str, estimator: Asked) -> None:
    reply = estimator.answer(mutations.BASE | {"model": mutations.TINY, "method_options": {"target_modules": pattern}})
    assert reply.get("fits") == "yes", reply


@pytest.mark.parametrize("pattern", ["[", "(" * 500, "a{99999999999}", "(?P<x>a)(?P<x>b)", "\\" + "x" * 2000 + "*"])
def test_what_is_no_expression_is_said(pattern: str) -> None:
    assert [issue.field for issue in refusal({"method_options": {"target_modules": pattern}})] == ["target_modules"]
    grpo = {"objective": "grpo", "per_device_train_batch_size": 8, "objective_options": {"pattern": pattern}}
    assert [issue.field for issue in refusal(grpo)] == ["pattern"]


# --- programs that ask ----------------------------------------------------------------------------------------------

NO_TEXT = (None, True, 5, 10**30, float("nan"), ["x"], {"a": 1}, [{"path": "/etc/passwd"}], "\ud800", "a\0b")


@pytest.fixture(scope="module")
def endpoints() -> dict[str, Callable[..., dict]]:
    """The functions behind the endpoints; their process is never started, since nothing below is worth asking it."""
    return {function.__name__: function for function in api.endpoints(Estimator())}


@pytest.mark.parametrize("name", ["estimate", "which_gpus", "which_methods", "fixes", "limits", "parameter_budget"])
@pytest.mark.parametrize("value", NO_TEXT, ids=lambda value: ascii(value)[:30])
def test_a_plan_argument_is_a_text_or_an_object(endpoints: dict[str, Callable[..., dict]], name: str, value: Any) -> None:
    arguments = {"plan_json": value} | ({"budget": "1000"} if name == "parameter_budget" else {})
    with pytest.raises(PlanError) as refused:
        endpoints[name](**arguments)
    issue = refused.value.issues[0]
    assert issue.field in ("a", "plan_json", "path") or isinstance(value, dict)
    assert len(str(refused.value)) < 1000
    assert str(refused.value).encode("utf-8")


@pytest.mark.parametrize("argument", ["query", "task", "family", "license", "largest"])
@pytest.mark.parametrize("value", [*NO_TEXT, -1, float("inf"), 10**400, "x" * 10**6], ids=lambda value: ascii(value)[:30])
def test_an_argument_of_a_search_is_refused_by_its_name(
    endpoints: dict[str, Callable[..., dict]], argument: str, value: Any
) -> None:
    if argument == "largest" and value == 5:
        return
    with pytest.raises(PlanError) as refused:
        endpoints["search_models"](**{argument: value})
    assert refused.value.issues[0].field == argument
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("value", [*NO_TEXT, "x" * 10**6], ids=lambda value: ascii(value)[:30])
def test_a_budget_is_a_text(endpoints: dict[str, Callable[..., dict]], value: Any) -> None:
    with pytest.raises(PlanError) as refused:
        endpoints["parameter_budget"](plan_json=Plan(max_length=64).to_json(), budget=value)
    assert refused.value.issues[0].field == "budget"


def test_a_plan_may_come_as_an_object(endpoints: dict[str, Callable[..., dict]]) -> None:
    with pytest.raises(PlanError, match=r"modle: is not a field of the plan\. Did you mean model\?"):
        endpoints["estimate"](plan_json={"modle": "demo/llama"})
    assert api._plan({"gpu": "L40S"}) == api._plan('{"gpu": "L40S"}') == Plan.from_dict({"gpu": "L40S"})


def test_options_written_into_the_form_are_read_alike() -> None:
    for text in ("9" * 5000, "[" * 10**5, '{"a": ' + "9" * 5000 + "}"):
        with pytest.raises(PlanError, match="not valid JSON"):
            form._others(text)


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        ({"ask": ["estimate"]}, "ask"),
        ({"ask": "x" * 10**6}, "ask"),
        ({"ask": "estimate", "plan": [1]}, "plan"),
        ({"ask": "fixes", "only": {"a": 1}}, "only"),
        ({"ask": "fixes", "only": "no such kind"}, "only"),
        ({"ask": "methods", "only": "no such method"}, "only"),
        ({"ask": "survey", "only": "no such group"}, "only"),
        ({"ask": "survey", "plan": {"gpu": [1]}}, "gpu"),
        ({"ask": "limits", "only": "seed"}, "only"),
        ({"ask": "budget", "only": "9" * 5000}, "budget"),
        ({"ask": "look", "only": "{"}, "only"),
        ({"ask": "look", "only": "[1]"}, "only"),
        ({"ask": "clean", "only": '{"wishes": 5}'}, "only.wishes"),
        ({"ask": "clean", "plan": {"datasets": []}, "only": "{}"}, "datasets"),
    ],
)
def test_a_question_of_another_form_is_refused_by_its_part(estimator: Asked, ask: dict, field: str) -> None:
    reply = estimator.answer({"plan": {"max_length": 64}} | ask)
    assert reply["issues"][0]["field"] == field, reply
    assert len(reply["error"]) < 1000


def test_the_limits_are_those_of_the_border() -> None:
    """A body that the server takes is one that a plan may have."""
    assert json_input.MOST_BYTES >= border.MAX_BODY_BYTES
