"""Finding a model of the catalogue: by name, size, family, task and licence, as a person would type it."""

from __future__ import annotations

import pytest

from engine.catalog import models
from engine.catalog.models import catalogue


def ids(*arguments: str, **more: object) -> list[str]:
    return [model.id for model in models.search(*arguments, **more)]


def test_no_words_are_all_models() -> None:
    assert ids() == list(catalogue())


@pytest.mark.parametrize(
    ("query", "more", "expected"),
    [
        ("qwen3 0.6b", {}, "Qwen/Qwen3-0.6B"),
        ("QWEN3 8B", {}, "Qwen/Qwen3-8B"),
        ("llama gated 3b", {}, "meta-llama/Llama-3.2-3B"),
        ("mit phi", {}, "microsoft/phi-2"),
        ("", {"family": "pythia", "largest": 1e8}, "EleutherAI/pythia-70m"),
        ("", {"task": "speech-seq2seq"}, "openai/whisper-tiny"),
        ("t5", {"license": "Apache-2.0"}, "google-t5/t5-small"),
    ],
)
def test_what_a_person_means_is_found(query: str, more: dict, expected: str) -> None:
    found = ids(query, **more)
    assert expected in found
    assert len(found) < 25


def test_nothing_is_found_where_nothing_is() -> None:
    assert ids("no such model") == []
    assert ids("", largest=1) == []


@pytest.mark.parametrize("size", ["7b", "350m", "0.6B"])
def test_a_size_is_a_size_and_no_word(size: str) -> None:
    wanted = float(size[:-1]) * (1e9 if size[-1] in "bB" else 1e6)
    for model in models.search(size):
        assert model.params == pytest.approx(wanted, rel=models.SIZE_TOLERANCE)


def test_the_label_says_what_is_searched_for() -> None:
    label = models.label(catalogue()["meta-llama/Llama-3.2-3B"])
    assert "meta-llama/Llama-3.2-3B" in label
    assert "3.21 B" in label
    assert "llama3.2" in label
    assert label.endswith("gated")
    labels = [models.label(model) for model in catalogue().values()]
    assert len(set(labels)) == len(labels)
