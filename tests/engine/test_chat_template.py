"""The chat template that a plan names: used by the trainer, the counts and Try alike, and saved with the result."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from engine import train
from engine.catalog import chat_templates
from engine.catalog.chat_templates import OWN, TEMPLATES
from engine.data import token_counts, tokenization
from engine.modeling import build
from engine.plan import FIELDS, DataSource
from tests.engine import tiny

CHAT = {"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "blue sea"}]}


def test_the_plan_offers_every_template() -> None:
    assert set(FIELDS["chat_template"].choices) == {OWN, *TEMPLATES}


def test_trainer_and_counts_write_chats_alike() -> None:
    plan = tiny.plan("sft", tiny.causal_model(), datasets=(DataSource(path="demo/pirate"),))
    seen = set()
    for key in FIELDS["chat_template"].choices:
        named = plan.with_(chat_template=key)
        ours, counted = build.load_tokenizer(named), token_counts.local_tokenizer(named)
        assert counted is not None
        assert ours.chat_template == counted.chat_template
        assert (ours.chat_template == build.load_tokenizer(plan).chat_template) is (key == OWN)
        (sequence,) = tokenization.encode(CHAT, ours, "sft")
        assert True in sequence.trained
        seen.add(sequence.ids)
        token_counts.count(named, counted)
        assert token_counts.remembered(named) is not None
    assert len(seen) == len(FIELDS["chat_template"].choices)
    longest = {key: max(token_counts.remembered(plan.with_(chat_template=key)).lengths) for key in (OWN, "chatml")}
    assert longest[OWN] != longest["chatml"], "each template has counts of its own"


def test_it_is_saved_with_the_result(tmp_path: Path) -> None:
    plan = tiny.plan("sft", tiny.causal_model(), chat_template="chatml", max_steps=1)
    processor = build.load_processor(plan)
    rows = tiny.rows("messages", 4)
    trainer = train.make_trainer(plan, tmp_path, build.build(plan, "cpu"), processor, rows, [])
    trainer.train()
    saved = AutoTokenizer.from_pretrained(train.save(trainer, processor, tmp_path, plan))
    assert saved.chat_template == TEMPLATES["chatml"].jinja
    assert chat_templates.of_plan(saved, plan.with_(chat_template=OWN)) is saved
