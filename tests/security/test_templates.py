"""A chat template of a stranger is rendered in transformers' sandbox, in a child process with 5 s and 1 GB for a chat (T28).

That is so wherever a template is rendered: for the X-ray, one row, the counts of an estimate, cleaning, training, the
merge's proof and Try. A template that asks for more is refused in one sentence, and a run with it fails with that sentence.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jinja2
import psutil
import pytest

from engine import train
from engine.data import template_sandbox, tokenization
from engine.data.demos import first_plan
from engine.inference import worker
from engine.issues import PlanError
from engine.jobs import runs
from engine.modeling import build, libraries, xray
from engine.plan import DataSource, Plan
from engine.recipes import vision
from engine.system import events
from engine.system.home import ASSETS
from estimators import tokens

LOOP = "{% for a in range(300) %}{% for b in range(300) %}{% for c in range(300) %}{% for d in range(300) %}"
LOOPS = LOOP + "{% endfor %}" * 4
# Each takes for ever, in a way of its own: loops of Jinja, one operation of C, the folding of constants, recursion.
ENDLESS = {
    "nested loops": LOOPS,
    "loops that print": LOOP + "x" + "{% endfor %}" * 4,
    "a power": "{{ (messages | length) ** (10 ** 9) }}",
    "a power of constants": "{{ 7 ** (7 ** 11) }}",
    "a large power of a variable": "{% set n = (messages | length) + 9 %}{{ n ** (n ** n) }}",
}
# Each needs more memory than there is.
GREEDY = {
    "a long text": "{{ 'a' * 10 ** 10 }}",
    "a long text of a variable": "{% set n = 10 ** 10 * (messages | length) %}{{ 'a' * n }}",
    "a text that doubles": "{% set ns = namespace(t='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}",
    "a list": "{% set n = 10 ** 10 * (messages | length) %}{{ ([1] * n) | length }}",
    "a wide format": "{{ '%0*d' % (10 ** 10, messages | length) }}",
}
REACHING = {
    "the class of a text": "{{ ''.__class__.__mro__ }}",
    "its subclasses": "{{ ''.__class__.__base__.__subclasses__() }}",
    "by a filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "the globals of a function": "{{ raise_exception.__globals__['__builtins__'] }}",
    "the globals of a cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "the globals of strftime": "{{ strftime_now.__globals__ }}{{ strftime_now.__globals__.os }}",
    "a format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "a change of the rows": "{{ messages.append(1) }}",
    "self": "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context.environment.__class__ }}",
}
BROKEN = {
    "its syntax": "{% for %}",
    "its own complaint": "{{ raise_exception('Roles must alternate') }}",
    "a type": "{{ 1 + 'a' }}",
    "a division": "{{ 1 / 0 }}",
    "a name that is not there": "{{ nothing.of.this }}",
    "recursion": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
}
CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Ahoy"}]


def with_template(folder: Path, template: str) -> str:
    """A copy of the demo model with a chat template of its own."""
    shutil.copytree(ASSETS / "demo_model", folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def issue(template: str) -> str:
    """What is said of a template that is refused; it may cost seconds, and none of this process's memory."""
    tokenizer = build.load_tokenizer(Plan())
    tokenizer.chat_template = template
    before, began = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(PlanError) as caught:
        tokenizer.apply_chat_template(CHAT)
    assert time.monotonic() - began < template_sandbox.SECONDS + 20  # of which a busy machine takes most to start the child
    assert psutil.Process().memory_info().rss - before < 200e6
    (found,) = caught.value.issues
    assert found.field == "model"
    assert "chat template" in found.message
    assert "chat template" in found.fix
    return found.message


@pytest.mark.parametrize("template", ENDLESS, ids=str)
def test_a_template_that_takes_for_ever_is_stopped(template: str) -> None:
    said = issue(ENDLESS[template])
    assert "longer than 5 seconds" in said or "more than" in said


@pytest.mark.parametrize("template", GREEDY, ids=str)
def test_a_template_that_fills_the_memory_is_stopped(template: str) -> None:
    said = issue(GREEDY[template])
    assert "more than" in said or "longer than" in said


def test_a_template_that_writes_very_much_is_stopped() -> None:
    assert "more than 16,000,000 characters" in issue("{{ 'a' * 2 * 10 ** 7 }}")
    assert "1,000,000" in issue("a" * 1_000_001)


@pytest.mark.parametrize("template", REACHING, ids=str)
def test_a_template_does_not_reach_the_interpreter(template: str) -> None:
    tokenizer = build.load_tokenizer(Plan())
    tokenizer.chat_template = REACHING[template]
    try:
        text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    except (PlanError, jinja2.TemplateError):
        return
    assert not text.strip(" []"), "an expression that is not refused gives nothing"


def test_a_template_that_reaches_for_it_is_refused_in_one_sentence() -> None:
    assert "reaches for what a template may not use" in issue(REACHING["the class of a text"])


@pytest.mark.parametrize("template", BROKEN, ids=str)
def test_a_template_that_is_broken_is_one_sentence(template: str, tmp_path: Path) -> None:
    plan = first_plan().with_(model=with_template(tmp_path / "m", BROKEN[template]), datasets=first_plan().datasets)
    reply = answered({"ask": "look", "plan": plan.to_dict()})
    (found,) = reply["issues"]
    assert "its chat template cannot write these chats" in found["message"]
    assert "unexpected" not in found["message"]


def answered(request: dict[str, Any]) -> dict[str, Any]:
    """The estimator's answer, in this process."""
    from estimators.__main__ import answer as answer_of

    return answer_of(json.dumps(request))


def test_the_rules_of_the_child_are_transformers_own() -> None:
    """The text, the masks and the complaints are what transformers gives without the child."""
    tokenizer = build.load_tokenizer(Plan())
    own = tokenizer.chat_template
    expected = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    tokenizer.chat_template = own + "{# a stranger's #}"
    found = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    assert found["input_ids"] == expected["input_ids"]
    assert found["assistant_masks"] == expected["assistant_masks"]
    assert template_sandbox._renderer._child is not None
    tokenizer.chat_template = BROKEN["its own complaint"]
    with pytest.raises(jinja2.TemplateError, match="Roles must alternate"):
        tokenizer.apply_chat_template(CHAT)


def test_the_childs_environment_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY")
    template_sandbox._renderer.close()
    tokenizer = build.load_tokenizer(Plan())
    tokenizer.chat_template = "x"
    tokenizer.apply_chat_template(CHAT)
    child = template_sandbox._renderer._child
    assert child is not None
    assert "hf_CANARY" not in psutil.Process(child.pid).environ().values()


def test_a_template_that_is_slow_for_each_row_does_not_take_all_day(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = build.load_tokenizer(Plan())
    tokenizer.chat_template = "{% for a in range(300) %}{% for b in range(300) %}{% endfor %}{% endfor %}{{ messages }}"
    monkeypatch.setattr(template_sandbox, "SECONDS", 1.0)
    with pytest.raises(PlanError, match="takes too long"):
        [tokenizer.apply_chat_template(CHAT) for _ in range(1000)]
    began = time.monotonic()
    with pytest.raises(PlanError, match="takes too long"):
        tokenizer.apply_chat_template(CHAT)
    assert time.monotonic() - began < 0.1, "what was refused once is not tried again"


# --- wherever a template is rendered --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    return with_template(tmp_path_factory.mktemp("hostile") / "model", LOOPS + "{# once #}")


@pytest.fixture
def hostile_plan(hostile: str) -> Plan:
    return first_plan().with_(model=hostile)


@pytest.mark.parametrize(
    "render",
    [
        lambda plan, tokenizer: xray.xray(plan, tokenizer),
        lambda plan, tokenizer: xray.look(plan, 1, tokenizer),
        lambda plan, tokenizer: tokens.lengths(plan),
        lambda plan, tokenizer: tokenization.encode({"messages": CHAT}, tokenizer, "sft"),
        lambda plan, tokenizer: worker.render(tokenizer, "Hello"),
        lambda plan, tokenizer: vision.chat_prompt(tokenizer, CHAT),
        lambda plan, tokenizer: train.make_trainer(
            plan, runs.runs_folder(), build.build(plan, "cpu"), tokenizer, train.load_rows(plan)[0], []
        ),
    ],
    ids=["X-ray", "one row", "counts of an estimate", "encode", "Try and the merge", "images", "training"],
)
def test_it_is_limited_wherever_a_template_is_rendered(render: Any, hostile_plan: Plan) -> None:
    libraries.load()
    with pytest.raises(PlanError, match="longer than 5 seconds"):
        render(hostile_plan, build.load_tokenizer(hostile_plan))


def test_nothing_renders_a_template_by_itself() -> None:
    """Jinja is imported by the sandbox alone; everything else goes through tokenizers and processors."""
    root = ASSETS.parent
    for file in [*root.glob("engine/**/*.py"), *root.glob("estimators/*.py"), *root.glob("ui/*.py"), root / "app.py"]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "jinja2" for name in names):
                assert file.name == "template_sandbox.py"


@pytest.mark.parametrize("ask", ["look", "xray", "estimate"])
def test_the_estimator_says_so_and_answers_the_next_question(ask: str, hostile_plan: Plan) -> None:
    began = time.monotonic()
    reply = answered({"ask": ask, "plan": hostile_plan.to_dict()})
    assert "longer than 5 seconds" in reply["error"]
    assert time.monotonic() - began < template_sandbox.SECONDS + 20
    assert "error" not in answered({"ask": "look", "plan": first_plan().to_dict()})


def test_a_run_whose_template_hangs_ends_as_a_failed_run(hostile_plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(hostile_plan.with_(max_steps=1).to_json())
    assert train.main(tmp_path) == 1
    last = events.since(tmp_path)[0][-1]
    assert last["kind"] == "failed"
    assert "longer than 5 seconds" in last["message"]
    assert "unexpected" not in last["message"]


def test_no_child_outlives_its_process(tmp_path: Path) -> None:
    """The child reads until its input ends, and the kernel ends what it is doing then."""
    before = {child.pid for child in psutil.Process().children()}
    tokenizer = build.load_tokenizer(Plan())
    tokenizer.chat_template = "y"
    tokenizer.apply_chat_template(CHAT)
    child = template_sandbox._renderer._child
    assert child is not None
    assert child.stdin is not None
    child.stdin.close()
    child.wait(10)
    template_sandbox._renderer.close()
    assert not {one.pid for one in psutil.Process(os.getpid()).children()} - before - {child.pid}


def test_the_demo_models_templates_need_no_child() -> None:
    template_sandbox._renderer.close()
    for source in ("demo/llama", "demo/student", "demo/vlm"):
        processor = build.load_processor(Plan(model=source, datasets=(DataSource(path="demo/pirate"),)))
        processor.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert template_sandbox._renderer._child is None
