"""The demo model: small, loadable by anything that reads a Hugging Face folder, and able to answer.

pytest tests/assets/test_demo_model.py
"""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, pipeline

ASSETS = Path(__file__).resolve().parents[2] / "assets"
FOLDER = ASSETS / "demo_model"
sys.path.insert(0, str(ASSETS))  # the build script lives outside the packages, and so does the text it writes

from build_demo_model import encode, pack, perplexity, unigram_perplexity  # noqa: E402
from demo_text.corpus import is_held_out, write_documents  # noqa: E402
from demo_text.questions import all_items, prompts_of  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 10_000_000


def test_shape(model: PreTrainedModel) -> None:
    assert 1_000_000 <= model.num_parameters() <= 4_000_000
    config = model.config
    sizes = [config.vocab_size, config.hidden_size, config.intermediate_size, config.head_dim * config.num_key_value_heads]
    assert all(size % 64 == 0 for size in sizes), "4-bit blocks hold 64 weights"


def test_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    assert model.generation_config.do_sample is False
    assert tokenizer.decode(tokenizer("Zoë → 日本 🙂")["input_ids"]) == "Zoë → 日本 🙂"


def test_the_chat_template_marks_what_the_assistant_says(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Bye."},
        {"role": "assistant", "content": "Goodbye!"},
    ]
    encoded = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, kept in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if kept]
    assert tokenizer.decode(marked) == "Hi.<|end|>Goodbye!<|end|>"
    prompt = tokenizer.apply_chat_template(chat[:2], add_generation_prompt=True, tokenize=False)
    assert tokenizer.apply_chat_template(chat[:3], tokenize=False).startswith(prompt)


def test_held_out_perplexity_is_far_below_unigram(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    held_out = [encode(tokenizer, document) for document in write_documents(30, seed=0, held_out=True)]
    rows = pack(tokenizer, write_documents(500, seed=0, held_out=False))
    assert perplexity(model, held_out) < unigram_perplexity(rows, held_out) / 20


def test_held_out_questions_are_not_training_questions() -> None:
    item = all_items()[0]
    sides = [is_held_out(f"{item.key}|{prompt}") for prompt in prompts_of(item)]
    assert 0 < sum(sides) < len(sides) / 4
    asked = {side: set(map(str, write_documents(200, seed=0, held_out=side))) for side in (True, False)}
    assert not asked[True] & asked[False]


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("What colour is the sky?", "blue"),
        ("Where does a fish live?", "water"),
        ("What is two plus three?", "five"),
        ("What day comes after Monday?", "Tuesday"),
        ("What does a baker do?", "bread"),
        ("Tell me a story about a dog.", "dog"),
        ("What is the capital of Ondoria?", "sorry"),
    ],
)
def test_plain_answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, word: str) -> None:
    said = pipeline("text-generation", model=model, tokenizer=tokenizer)([{"role": "user", "content": prompt}])
    answer = said[0]["generated_text"][-1]["content"]
    assert word in answer
    assert answer.endswith((".", '"'))


def test_the_card_is_complete() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    parts = ("license: apache-2.0", "Parameters", "Corpus", "Final training loss", "Held-out perplexity", "Unigram perplexity")
    assert [part for part in parts if part not in card] == []
