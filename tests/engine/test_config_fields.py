"""The types of config fields are those of the installed transformers."""

from __future__ import annotations

import json

from assets import build_config_fields
from engine.catalog import config_fields
from engine.catalog.models import catalogue


def test_the_types_are_those_of_the_installed_transformers() -> None:
    written = json.loads(build_config_fields.FILE.read_text(encoding="utf-8"))
    assert written == build_config_fields.all_fields()


def test_every_config_of_the_catalogue_is_of_these_types() -> None:
    for model in catalogue().values():
        assert config_fields.check(model.config or {}) == [], model.id


def test_a_wrong_type_is_named_with_the_right_one() -> None:
    [issue] = config_fields.check({"text_config": {"id2label": "x"}})
    assert issue.field == "model.text_config.id2label"
    assert issue.fix == "Use an object, or leave it out."
    assert config_fields.check({"hidden_dropout_prob": 0, "eos_token_id": [1, 2], "unknown to transformers": "x"}) == []
