"""What a person's words mean as a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.catalog import models
from engine.issues import PlanError


def test_the_demo_model_is_the_first_of_the_catalogue() -> None:
    first = next(iter(models.catalogue().values()))
    assert first.id == models.DEMO_MODEL
    assert 1e6 < (first.params or 0) < 4e6


def test_each_row_has_what_the_page_shows() -> None:
    for model in models.catalogue().values():
        assert model.title
        assert model.config
        assert model.params


def test_a_hub_id_is_taken_as_it_is() -> None:
    assert models.find("some-body/some.model-1b").id == "some-body/some.model-1b"


@pytest.mark.parametrize(
    "words", ["../x", "a/b/c", "hf://x/y", "https://x.y/z", "a b", "/no/such/folder", "~nobody", "demo/x", "a" * 300]
)
def test_what_is_no_model_is_one_sentence(words: str) -> None:
    with pytest.raises(PlanError) as caught:
        models.find(words)
    assert caught.value.issues[0].field == "model"
    assert caught.value.issues[0].fix


def test_a_pasted_config_is_a_model() -> None:
    pasted = json.dumps({"model_type": "llama", "hidden_size": 64})
    assert models.find(pasted).config == {"model_type": "llama", "hidden_size": 64}


@pytest.mark.parametrize("config", [{}, {"hidden_size": 4}, {"model_type": "llama", "auto_map": {"AutoModel": "x.Y"}}])
def test_a_config_without_type_or_with_code_of_its_own_is_refused(config: dict) -> None:
    with pytest.raises(PlanError):
        models.find(config)


def test_a_folder_with_pickled_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(PlanError, match=r"no \*\.safetensors"):
        models.find(str(tmp_path))
