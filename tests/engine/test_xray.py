"""The X-ray: its flags are the real trainers' labels, its counts are exact, what cannot train is refused (F24, F26-F29)."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import checks, data
from engine.catalog import chat_templates
from engine.data import cleaning, languages, near_duplicates, token_counts, tokenization
from engine.data.demos import DEMOS, Demo, first_plan
from engine.issues import PlanError
from engine.modeling import xray
from engine.modeling.build import load_tokenizer
from engine.modeling.xray import Finding, Look, XRay
from engine.objectives import OBJECTIVES
from engine.plan import DataSource, Plan
from engine.system.home import ASSETS
from engine.train import make_trainer

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "read", "of", "ships", "sea")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(first_plan())


def chat(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def plan_of(folder: Path, rows: Sequence[dict | str], name: str = "rows.jsonl", **changes: Any) -> Plan:
    file = folder / name
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    settings = {"datasets": (DataSource(path=str(file)),), "eval_fraction": 0.0} | changes
    return first_plan().with_(**settings)


def chats(number: int) -> list[dict]:
    return [
        chat(f"Number {place} {WORDS[place % 11]}?", f"It is {place * 7919} {WORDS[place % 7]}.") for place in range(number)
    ]


def found(seen: XRay, key: str) -> Finding:
    return next(one for one in seen.findings if one.key == key)


# --- the flags are the trainers' labels -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(ASSETS / "demo_model", use_safetensors=True)


SFT_ROWS = {
    "chats whose template marks the answers": (
        None,
        [chat("Hi", "Hello"), {"messages": [*chat("One", "1")["messages"], *chat("Two", "2")["messages"]]}],
    ),
    "chats whose template marks nothing": (
        "{%- for m in messages -%}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}",
        [chat("Hi", "Hello"), {"messages": [*chat("One", "1")["messages"], *chat("Two", "2")["messages"]]}],
    ),
    "prompts and completions": (
        None,
        [{"prompt": "The sea is", "completion": " blue."}, {"prompt": "Say a", "completion": "b"}],
    ),
    "texts": (None, [{"text": "A ship sails."}, {"text": "The end<|end|>"}]),
}


@pytest.mark.parametrize(("template", "rows"), SFT_ROWS.values(), ids=SFT_ROWS)
def test_sft_flags_are_the_labels_of_the_real_trainer(
    tmp_path: Path, model: Any, template: str | None, rows: list[dict]
) -> None:
    from trl import SFTConfig, SFTTrainer

    tokenizer = load_tokenizer(first_plan())
    tokenizer.chat_template = template or tokenizer.chat_template
    marks = tokenization.marks_answers(tokenizer)
    trl_rows = data.as_dataset([data.as_trl(row, assistant_mask=marks) for row in rows])
    args = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False, max_length=None,
        assistant_only_loss="messages" in trl_rows.column_names,
    )  # fmt: skip
    trainer = SFTTrainer(model=model, args=args, processing_class=tokenizer, train_dataset=trl_rows)
    for row, theirs in zip(rows, trainer.train_dataset, strict=True):
        (ours,) = tokenization.encode(row, tokenizer)
        assert list(ours.ids) == list(theirs["input_ids"])
        assert list(ours.trained) == [label != -100 for label in theirs["labels"]]


@pytest.mark.parametrize("turns", [True, False])
def test_preference_flags_are_what_the_real_trainer_counts(tmp_path: Path, model: Any, tokenizer: Any, turns: bool) -> None:
    from trl import DPOConfig, DPOTrainer

    row: dict[str, Any] = {"prompt": "The sea is", "chosen": " blue.", "rejected": " green, I think."}
    if turns:
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        row = {name: [{"role": roles[name], "content": text}] for name, text in row.items()}
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False, max_length=None)
    trainer = DPOTrainer(model=model, args=args, processing_class=tokenizer, train_dataset=data.as_dataset([row, row]))
    theirs = trainer.train_dataset[0]
    for side in tokenization.encode(row, tokenizer, "dpo"):
        assert list(side.ids) == [*theirs["prompt_ids"], *theirs[f"{side.name}_ids"]]
        assert list(side.trained) == [False] * len(theirs["prompt_ids"]) + [True] * len(theirs[f"{side.name}_ids"])


EXAMPLES = {row.becomes: data.Recognition().read(dict(row.example))[1] for row in data.FORMATS.values()}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_objective_has_a_reading_of_its_rows(objective: Any, tokenizer: Any) -> None:
    for shape in objective.shapes:
        reading = tokenization.reading(objective.key, shape)
        sequences = tokenization.encode(EXAMPLES[shape], tokenizer, objective.key)
        assert bool(sequences) == (shape not in tokenization.WITHOUT_TEXT)
        assert not reading.by_tokens or any(any(one.trained) for one in sequences)


def test_words_and_answers_are_marked_by_their_first_token_and_their_place(tokenizer: Any) -> None:
    (tagged,) = tokenization.encode({"tokens": ["Adalbert", "wrote"], "tags": ["B", "O"]}, tokenizer)
    assert sum(tagged.trained) == 2 < len(tagged.ids)
    row = {"question": "Who?", "context": "Then Ada wrote.", "answers": {"text": ["Ada"], "answer_start": [5]}}
    (answered,) = tokenization.encode(row, tokenizer)
    marked = [one for one, trained in zip(answered.ids, answered.trained, strict=True) if trained]
    assert tokenizer.decode(marked).strip() == "Ada"


# --- the look at a row ----------------------------------------------------------------------------------------------


def test_a_row_is_shown_token_by_token_and_nothing_is_lost(tmp_path: Path, tokenizer: Any) -> None:
    plan = plan_of(tmp_path, [chat("Grüße, 你好 👋?", "Sí… <b>\nyes"), chat("Two", "2")])
    look = xray.look(plan, 1, tokenizer)
    (strip,) = look.strips
    rendered = tokenizer.apply_chat_template(chat("Grüße, 你好 👋?", "Sí… <b>\nyes")["messages"], tokenize=False)
    assert "".join(piece.text for piece in strip.pieces) == rendered
    assert "".join(piece.text for piece in strip.pieces if piece.trained) == "Sí… <b>\nyes<|end|>"
    assert sum(piece.tokens for piece in strip.pieces) == strip.tokens
    assert Look.from_dict(json.loads(json.dumps(_plain(look)))) == look


def test_what_is_beyond_the_longest_sequence_is_shown_as_cut(tmp_path: Path, tokenizer: Any) -> None:
    plan = plan_of(tmp_path, [chat("Two words", "three more words here")], max_length=8)
    (strip,) = xray.look(plan, 1, tokenizer).strips
    assert [piece.cut for piece in strip.pieces] == [False] * 8 + [True] * (len(strip.pieces) - 8)
    assert strip.trained == sum(piece.trained for piece in strip.pieces) < strip.tokens


def test_rows_that_are_packed_lose_no_token(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    """DAPT joins the rows and cuts them wherever a sequence is full; to call a long text cut would be wrong."""
    rows = [{"text": "word " * number} for number in (200, 30, 5)]
    plan = plan_of(tmp_path, rows, objective="dapt", max_length=32, eval_fraction=0.0, precision="fp32")
    seen = xray.xray(plan, tokenizer)
    assert (seen.cut_rows, seen.cut_tokens, seen.packed) == (0, 0, True)
    assert not [one for one in seen.findings if one.key in ("long", "untrained")]
    assert not any(piece.cut for piece in xray.look(plan, 1, tokenizer).strips[0].pieces)
    trainer = make_trainer(plan, tmp_path, model, tokenizer, rows, [])
    assert sum(len(row["input_ids"]) for row in trainer.train_dataset) == seen.tokens
    assert len(trainer.train_dataset) == -(-seen.tokens // 32)


@pytest.mark.parametrize("number", [0, 3])
def test_a_row_that_is_not_there(tmp_path: Path, tokenizer: Any, number: int) -> None:
    with pytest.raises(PlanError, match="Use 1 to 2"):
        xray.look(plan_of(tmp_path, chats(2)), number, tokenizer)


def _plain(value: Any) -> Any:
    import dataclasses

    return dataclasses.asdict(value)


# --- the whole ------------------------------------------------------------------------------------------------------


def test_the_counts_are_exact_and_the_histogram_holds_every_row(tmp_path: Path, tokenizer: Any) -> None:
    rows = [chat("Hi", "word " * (1 + place % 30)) for place in range(120)]
    seen = xray.xray(plan_of(tmp_path, rows, max_length=20, eval_fraction=0.1), tokenizer)
    train, _ = data.split(rows, eval_fraction=0.1, seed=0)
    exact = [len(tokenizer.apply_chat_template(row["messages"])["input_ids"]) for row in train]
    assert (seen.rows, seen.tokens, seen.longest) == (len(train), sum(exact), max(exact))
    assert seen.cut_rows == sum(length > 20 for length in exact)
    assert seen.cut_tokens == sum(max(0, length - 20) for length in exact)
    assert sum(rows for *_, rows in seen.histogram) == len(train)
    assert XRay.from_dict(json.loads(json.dumps(_plain(seen)))) == seen


@pytest.mark.parametrize("max_length", [1, 8, 60, 5000])
@pytest.mark.parametrize("counted", [[5], [5, 5], [1, 1000], list(range(50, 90)), [*range(100), 100_000]])
def test_the_bins_of_a_histogram_hold_all_rows_and_meet_at_the_longest_sequence(counted: list[int], max_length: int) -> None:
    bins = xray.histogram(counted, max_length, bins=10)
    assert all(end == start for (_, end, _), (start, _, _) in itertools.pairwise(bins))
    for start, end, rows in bins:
        assert rows == sum(start <= length < end for length in counted)
    assert sum(rows for *_, rows in bins) == len(counted)
    assert len(bins) <= 13
    assert not any(start <= max_length < end - 1 for start, end, _ in bins[:-1])


def test_what_is_odd_is_found_with_its_row(tmp_path: Path, tokenizer: Any) -> None:
    long = "The old ship sailed over the sea and came home with fish and bread for all the children of the town"
    rows: list[dict | str] = list(chats(40))
    rows[3] = chat("A copy", long)
    rows[9] = rows[3]
    rows[12] = chat("A copy", long.replace("bread", "bread, "))
    rows[20] = chat("Как дела?", "Хорошо, спасибо, а у вас?")
    rows[25] = chat("Who are you?", "I am {{name}}.")
    rows[30] = "oops"
    rows[31] = chat("Hi", " ")
    seen = xray.xray(plan_of(tmp_path, rows), tokenizer)
    assert {one.key: one.rows for one in seen.findings} == {
        "bad": 1, "empty": 1, "copies": 1, "near_copies": 1, "languages": 1, "placeholders": 1,
    }  # fmt: skip
    assert found(seen, "copies").examples[0].startswith("row 10: A copy")
    assert "line 31 of rows.jsonl" in found(seen, "bad").examples[0]
    assert all(one.cleaning in (*cleaning.CLEANINGS, "") for one in seen.findings)


def test_a_held_out_row_that_stands_in_the_training_rows_nearly_is_a_leak(tmp_path: Path, tokenizer: Any) -> None:
    text = "the quick brown fox jumps over the lazy dog near the old mill by the river on a cold and rainy day number"
    rows = [chat("Tell a story", f"{text} {place}") for place in range(30)]
    seen = xray.xray(plan_of(tmp_path, rows, eval_fraction=0.2), tokenizer)
    assert seen.held_out == 6
    assert found(seen, "leaks").rows >= 1


def test_the_held_out_rows_are_the_workers_and_their_ids_are_kept(tmp_path: Path, tokenizer: Any, home: Path) -> None:
    plan = plan_of(tmp_path, chats(50), eval_fraction=0.2)
    _, held_out = data.split(data.load(plan.datasets), eval_fraction=0.2, seed=plan.seed)
    ids = {data.row_id(row) for row in held_out}
    assert set(xray.xray(plan, tokenizer).held_out_ids) == ids
    (record,) = (home / "splits").iterdir()
    kept = json.loads(record.read_text())
    assert (set(kept["held_out"]), kept["seed"], kept["rows"]) == (ids, plan.seed, 50)


@pytest.mark.parametrize("demo", DEMOS.values(), ids=DEMOS)
def test_every_demo_has_an_xray_without_a_warning(demo: Demo) -> None:
    plan = demo.plan()
    tokenizer = token_counts.local_tokenizer(plan)
    seen = xray.xray(plan, tokenizer)
    assert seen.issues == ()
    assert seen.cut_rows == 0
    assert seen.trained > 0 or not seen.by_tokens
    look = xray.look(plan, seen.rows, tokenizer)
    assert look.strips or look.label


def test_classes_are_counted_and_rare_ones_named(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"text": f"Film {place} {place * 31}", "label": "bad" if place == 7 else "good"} for place in range(30)]
    seen = xray.xray(plan_of(tmp_path, rows, objective="classification"), tokenizer)
    assert seen.classes == (("good", 29), ("bad", 1))
    assert found(seen, "rare").rows == 1
    assert not seen.by_tokens


def test_a_sample_stands_for_a_set_that_is_too_large(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counts, "MOST_LOADED", 50)
    monkeypatch.setattr(token_counts, "MOST_COUNTED", 20)
    plan = plan_of(tmp_path, chats(100), eval_fraction=0.1)
    counts = token_counts.count(plan, tokenizer)
    assert (counts.rows, counts.held_out, len(counts.lengths), counts.exact) == (90, 10, 18, False)
    assert len(counts.all_lengths()) == 90
    assert token_counts.count(plan, tokenizer) == counts


def test_counts_are_kept_until_the_data_change(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, chats(5))
    counts = token_counts.count(plan, tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(tokenization, "encode", lambda *_: pytest.fail("the rows were counted again"))
        assert token_counts.count(plan.with_(max_length=99), tokenizer) == counts
    changed = plan_of(tmp_path, chats(6))
    assert token_counts.count(changed, tokenizer).rows == 6


# --- copies and languages -------------------------------------------------------------------------------------------


def test_near_copies_are_found_and_others_are_not() -> None:
    import random

    random_ = random.Random(0)
    texts = [" ".join(random_.choices([f"word{n}" for n in range(500)], k=60)) for _ in range(200)]
    changed = texts[17].split()
    changed[30] = "another"
    assert near_duplicates.near_copies([*texts, " ".join(changed), texts[4].upper()]) == [(200, 17), (201, 4)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat is on the mat and it was not for you", "English"),
        ("Der Hund ist nicht mit der Katze auf dem Dach, und das ist auch gut", "German"),
        ("Le chat est dans la maison avec les enfants qui ne sont pas sur le lit", "French"),
        ("Привет, как дела?", "Cyrillic"),
        ("今天天气很好", "Chinese"),
        ("こんにちは世界", "Japanese"),
        ("print(x[0])", "Latin"),
        ("1 + 1 = 2", languages.OTHER),
    ],
)
def test_languages_are_told_apart_where_it_is_clear(text: str, language: str) -> None:
    assert languages.language(text) == language


# --- what cannot train ----------------------------------------------------------------------------------------------


def test_a_plan_whose_prompts_fill_the_sequence_is_refused_before_the_start(tmp_path: Path, tokenizer: Any) -> None:
    """F24. The trainers would drop the rows without a word, then say `num_samples should be a positive integer`."""
    plan = plan_of(tmp_path, [chat("word " * 40, "yes")] * 3 + [chat("word " * 41, "no")], max_length=16)
    seen = xray.xray(plan, tokenizer)
    assert found(seen, "untrained").rows == 4
    assert "none of the 4 rows has a token to learn from within 16 tokens" in seen.issues[0].message
    assert [issue.field for issue in checks.check_start(plan) if issue.severity == "error"] == ["max_length"]
    with pytest.raises(PlanError, match="none of the 4 rows"):
        token_counts.refuse_untrained(plan)
    token_counts.refuse_untrained(plan.with_(max_length=128))
    assert not [issue for issue in checks.check_start(plan.with_(max_length=128)) if issue.severity == "error"]


def test_some_rows_without_a_trained_token_are_counted_and_warned_of(tmp_path: Path, tokenizer: Any) -> None:
    plan = plan_of(tmp_path, [*chats(6), chat("word " * 60, "yes")], max_length=32)
    (issue,) = xray.xray(plan, tokenizer).issues
    assert issue.severity == "warning"
    assert "1 of 7 rows have no token to learn from" in issue.message


def test_rows_longer_than_the_model_can_read_are_cut_and_counted_or_refused(tmp_path: Path, tokenizer: Any) -> None:
    """F26. The demo model reads 512 tokens."""
    plan = plan_of(tmp_path, [chat("Hi", "word " * 700), chat("Hi", "Hello")], max_length=512)
    seen = xray.xray(plan, tokenizer)
    assert (seen.cut_rows, seen.cut_tokens) == (1, seen.longest - 512)
    assert found(seen, "long").rows == 1
    assert [issue.field for issue in checks.check(plan.with_(max_length=1024))] == ["max_length"]


def test_a_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    """F27. The model's step would end in `IndexError: index out of range in self`."""
    folder = tmp_path / "model"
    shutil.copytree(ASSETS / "demo_model", folder)
    larger = load_tokenizer(first_plan())
    larger.add_tokens(["<new>"])
    larger.save_pretrained(folder)
    plan = plan_of(tmp_path, [chat("Hi <new>", "Hello")], model=str(folder))
    tokenizer = token_counts.local_tokenizer(plan)
    (issue,) = xray.xray(plan, tokenizer).issues
    assert "gives the id 2,048 (2,049 tokens), and the model has embeddings for 2,048 only" in issue.message
    assert issue.severity == "error"
    assert not xray.xray(plan_of(tmp_path, [chat("Hi", "Hello")], model=str(folder)), tokenizer).issues


def test_without_a_pad_token_it_trains_and_the_end_is_learned(tmp_path: Path, model: Any) -> None:
    """F28. Where padding is the end token, hiding all padding from the loss must not hide the answer's end."""
    from trl import SFTConfig, SFTTrainer

    tokenizer = load_tokenizer(first_plan())
    tokenizer.pad_token = None
    rows = [chat("Hi", "Hello"), chat("One more time", "A longer answer than that")]
    args = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False, max_steps=30, per_device_train_batch_size=2,
        learning_rate=3e-3, logging_strategy="no", assistant_only_loss=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(model=model, args=args, processing_class=tokenizer, train_dataset=data.as_dataset(rows))
    batch = next(iter(trainer.get_train_dataloader()))
    assert [(labels == tokenizer.eos_token_id).sum().item() for labels in batch["labels"]] == [1, 1]
    assert trainer.train().training_loss > 0
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = trainer.model.generate(**asked, do_sample=False, max_new_tokens=32, pad_token_id=tokenizer.eos_token_id)[0]
    assert tokenizer.decode(said[asked["input_ids"].shape[1] :]) == f"Hello{tokenizer.eos_token}", "it stops by itself"
    plan = plan_of(tmp_path, rows)
    assert not xray.xray(plan, tokenizer).issues
    assert token_counts.count(plan, tokenizer).ended == 2


def test_a_template_that_hides_the_end_of_an_answer_is_warned_of(tmp_path: Path) -> None:
    """F28, the other half: such a model never stops."""
    tokenizer = load_tokenizer(first_plan())
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    issues = xray.xray(plan_of(tmp_path, chats(3)), tokenizer).issues
    assert ["would not learn to end its answers" in issue.message for issue in issues] == [True]


def test_without_a_chat_template_named_ones_are_offered_and_shown(tmp_path: Path) -> None:
    """F29."""
    folder = tmp_path / "model"
    shutil.copytree(ASSETS / "demo_model", folder)
    (folder / "chat_template.jinja").unlink()
    plan = plan_of(tmp_path, [chat("Hi", "Hello")], model=str(folder))
    tokenizer = token_counts.local_tokenizer(plan)
    assert tokenizer.chat_template is None
    with pytest.raises(PlanError, match="has no chat template"):
        tokenization.encode(chat("Hi", "Hello"), tokenizer)
    seen = xray.xray(plan, tokenizer)
    assert [key for key, _ in seen.templates] == list(chat_templates.TEMPLATES)
    (issue,) = seen.issues
    assert "has no chat template" in issue.message
    (strip,) = xray.look(plan, 1, tokenizer, seen.template).strips
    assert "".join(piece.text for piece in strip.pieces) == "User:\nHi\nAssistant:\nHello<|end|>\n"
    assert "".join(piece.text for piece in strip.pieces if piece.trained) == "Hello<|end|>"

    written = cleaning.write_with_template(plan, plan.datasets[0], tokenizer, seen.template)
    assert data.load((written.source,)) == [{"prompt": "User:\nHi\nAssistant:\n", "completion": "Hello"}]
    assert not xray.xray(plan.with_(datasets=(written.source,)), tokenizer).issues


@pytest.mark.parametrize("template", chat_templates.TEMPLATES.values(), ids=chat_templates.TEMPLATES)
def test_every_named_template_marks_the_answers_with_their_end(template: Any, tokenizer: Any) -> None:
    named = chat_templates.with_template(tokenizer, template.key)
    row = {"messages": [{"role": "system", "content": "Be brief"}, *chat("Hi", "Hello")["messages"]]}
    (sequence,) = tokenization.encode(row, named)
    learned = [one for one, trained in zip(sequence.ids, sequence.trained, strict=True) if trained]
    assert tokenizer.decode(learned) == "Hello<|end|>"
    assert tokenizer.chat_template != named.chat_template


def test_a_template_that_leaves_out_tools_is_warned_of(tmp_path: Path, tokenizer: Any) -> None:
    row = {**chat("Hi", "Hello"), "tools": [{"name": "f"}]}
    assert "leaves out tools" in xray.xray(plan_of(tmp_path, [row] * 2), tokenizer).issues[-1].message


def test_rows_that_the_objective_cannot_learn_from_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    plan = plan_of(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3, objective="sft")
    issue = xray.xray(plan, tokenizer).issues[0]
    assert "are preference, and Instruction tuning (SFT) takes messages or prompt-completion or text" in issue.message
    assert issue in checks.check_start(plan)
    assert not xray.xray(plan.with_(objective="dpo"), tokenizer).issues
