"""Text tasks beyond chat, on transformers' own trainers: classes, numbers, marked words, answers, gaps, text to text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PretrainedConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from engine.data import token_cache
from engine.issues import Issue, PlanError
from engine.modeling import build
from engine.objectives import option_values, task_of
from engine.plan import Plan
from engine.recipes import Batch, Models, Recipe, Row, Setup
from engine.recipes.causal import arguments, ones

IGNORED = -100  # the label that no loss counts (torch.nn.CrossEntropyLoss)


def own_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The model's own loss, which transformers' Trainer takes."""
    return model(**batch).loss


def plain_trainer(
    setup: Setup,
    to_features: Callable[[Row], Row],
    collator: Any,
    metrics: Callable[[EvalPrediction], dict[str, float]] | None,
) -> Trainer:
    """transformers' Trainer on rows that `to_features` turns into the model's inputs."""
    train, held_out = both_features(setup, to_features)
    return Trainer(
        model=setup.model,
        args=arguments(setup, TrainingArguments, prediction_loss_only=metrics is None, label_names=label_names(setup.plan)),
        data_collator=collator,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=setup.processor,
        compute_metrics=metrics,
    )


def both_features(setup: Setup, to_features: Callable[[Row], Row]) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """(training rows, held-out rows) as the model's inputs, kept for the next start."""
    plan = setup.plan
    classes = build.labels_of(plan) if task_of(plan).labels in ("classes", "tags") else ()
    depends_on = {
        "objective": plan.objective,
        "max_length": plan.max_length,
        "classes": classes,
        "options": option_values(plan),
    }
    train, held_out = (
        token_cache.features(rows, to_features, setup.processor, depends_on) if rows else None
        for rows in (setup.train_rows, setup.eval_rows)
    )
    assert train is not None
    return train, held_out


def label_names(plan: Plan) -> list[str]:
    """The inputs that are labels. PEFT hides the model's signature, so the Trainer cannot find them itself."""
    return ["start_positions", "end_positions"] if plan.objective == "question_answering" else ["labels"]


# --- classes and numbers --------------------------------------------------------------------------------------------


def classification_trainer(setup: Setup) -> Trainer:
    """A class, or a number, for each text or pair of texts."""
    places = {name: place for place, name in enumerate(build.labels_of(setup.plan))}
    is_number = task_of(setup.plan).labels == "one"
    pad_with_end(setup)

    def to_features(row: Row) -> Row:
        texts = [row["text"], *([row["text_pair"]] if "text_pair" in row else [])]
        tokens = setup.processor(*texts, truncation=True, max_length=setup.plan.max_length)
        return {**tokens, "labels": float(row["label"]) if is_number else places[str(row["label"])]}

    collator = DataCollatorWithPadding(setup.processor)
    return plain_trainer(setup, to_features, collator, mean_absolute_error if is_number else accuracy)


def pad_with_end(setup: Setup) -> None:
    """Decoders often have no token for padding: the end of a text serves, and the model must know which it is."""
    if setup.processor.pad_token is None:
        setup.processor.pad_token = setup.processor.eos_token
    setup.model.config.pad_token_id = setup.processor.pad_token_id


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of rows whose likeliest class is the right one."""
    return {"accuracy": float((np.argmax(_first(prediction), -1) == prediction.label_ids).mean())}


def mean_absolute_error(prediction: EvalPrediction) -> dict[str, float]:
    """How far off the numbers are, on average."""
    return {"mean_absolute_error": float(np.abs(_first(prediction).squeeze(-1) - prediction.label_ids).mean())}


def _first(prediction: EvalPrediction) -> np.ndarray:
    """The logits; some models give their hidden states beside them."""
    return prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions


def text_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """input_ids and attention_mask int64 [batch, length], and one label [batch] each."""
    labels = torch.ones(batch) if task_of(plan).labels == "one" else torch.zeros(batch, dtype=torch.int64)
    return {"input_ids": ones(batch, length), "attention_mask": ones(batch, length), "labels": labels}


# --- marked words ---------------------------------------------------------------------------------------------------


def token_trainer(setup: Setup) -> Trainer:
    """A tag for each word; its first piece carries the label."""
    names = build.labels_of(setup.plan)
    places = {name: place for place, name in enumerate(names)}

    def to_features(row: Row) -> Row:
        tokens = setup.processor(row["tokens"], is_split_into_words=True, truncation=True, max_length=setup.plan.max_length)
        words = tokens.word_ids()
        firsts = [word is not None and word != before for word, before in zip(words, [None, *words[:-1]], strict=True)]
        labels = [places[str(row["tags"][word])] if first else IGNORED for word, first in zip(words, firsts, strict=True)]
        return {**tokens, "labels": labels}

    def f1(prediction: EvalPrediction) -> dict[str, float]:
        return {"f1": f1_of_marked(np.argmax(_first(prediction), -1), prediction.label_ids, outside=places.get("O"))}

    return plain_trainer(setup, to_features, DataCollatorForTokenClassification(setup.processor), f1)


def f1_of_marked(predicted: np.ndarray, expected: np.ndarray, outside: int | None) -> float:
    """F1 over the words that are marked on either side, their tag included; `outside` is the tag of unmarked words."""
    counted = expected != IGNORED
    predicted, expected = predicted[counted], expected[counted]
    right = ((predicted == expected) & (expected != outside)).sum()
    marked = (predicted != outside).sum() + (expected != outside).sum()
    return float(2 * right / marked) if marked else 0.0


def token_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """input_ids, attention_mask and labels, each int64 [batch, length]; the labels are of the first class."""
    parts = {name: ones(batch, length) for name in ("input_ids", "attention_mask")}
    return parts | {"labels": torch.zeros(batch, length, dtype=torch.int64)}


# --- answers in a text ----------------------------------------------------------------------------------------------


def question_trainer(setup: Setup) -> Trainer:
    """The first and the last token of the answer; an answer that was cut off is marked at the first token of all."""

    def to_features(row: Row) -> Row:
        tokens = setup.processor(
            row["question"],
            row["context"],
            truncation="only_second",
            max_length=setup.plan.max_length,
            return_offsets_mapping=True,
        )
        offsets, parts = tokens.pop("offset_mapping"), tokens.sequence_ids()
        start = row["answers"]["answer_start"][0]
        end = start + len(row["answers"]["text"][0])
        inside = [
            place
            for place, ((first, last), part) in enumerate(zip(offsets, parts, strict=True))
            if part == 1 and first < end and last > start
        ]
        whole = bool(inside) and offsets[inside[-1]][1] >= end
        return {**tokens, "start_positions": inside[0] if whole else 0, "end_positions": inside[-1] if whole else 0}

    return plain_trainer(setup, to_features, DataCollatorWithPadding(setup.processor), exact_span)


def exact_span(prediction: EvalPrediction) -> dict[str, float]:
    """The share of rows whose likeliest first and last token are both the right ones."""
    starts, ends = (np.argmax(part, -1) for part in prediction.predictions[:2])
    right_starts, right_ends = prediction.label_ids
    return {"exact_match": float(((starts == right_starts) & (ends == right_ends)).mean())}


def question_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """input_ids and attention_mask int64 [batch, length], and the two positions [batch]."""
    parts = {name: ones(batch, length) for name in ("input_ids", "attention_mask")}
    return parts | {name: torch.zeros(batch, dtype=torch.int64) for name in ("start_positions", "end_positions")}


# --- gaps -----------------------------------------------------------------------------------------------------------


def gap_trainer(setup: Setup) -> Trainer:
    """Masked-LM pretraining: each batch hides other words."""
    if setup.processor.mask_token is None:
        raise PlanError([Issue(field="model", message="its tokenizer has no word for a gap.", fix="Choose an encoder (BERT).")])
    collator = DataCollatorForLanguageModeling(
        setup.processor, mlm=True, mlm_probability=option_values(setup.plan)["mlm_probability"], seed=setup.plan.seed
    )

    def to_features(row: Row) -> Row:
        return dict(setup.processor(row["text"], truncation=True, max_length=setup.plan.max_length))

    return plain_trainer(setup, to_features, collator, None)


# --- text to text ---------------------------------------------------------------------------------------------------


def seq2seq_trainer(setup: Setup) -> Trainer:
    """transformers' Seq2SeqTrainer; the evaluation writes each text and compares it with the wanted one."""
    most = option_values(setup.plan)["max_target_length"]

    def to_features(row: Row) -> Row:
        tokens = setup.processor(row["source"], truncation=True, max_length=setup.plan.max_length)
        targets = setup.processor(text_target=row["target"], truncation=True, max_length=most)
        return {**tokens, "labels": with_end(targets["input_ids"], setup.processor.eos_token_id, most)}

    def exact_match(prediction: EvalPrediction) -> dict[str, float]:
        written, wanted = (decoded(setup.processor, part) for part in (_first(prediction), prediction.label_ids))
        return {"exact_match": float(np.mean([a == b for a, b in zip(written, wanted, strict=True)]))}

    train, held_out = both_features(setup, to_features)
    return Seq2SeqTrainer(
        model=setup.model,
        args=arguments(
            setup,
            Seq2SeqTrainingArguments,
            prediction_loss_only=False,
            predict_with_generate=True,
            generation_max_length=most,
            label_names=["labels"],
        ),
        data_collator=DataCollatorForSeq2Seq(setup.processor, model=setup.model),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=setup.processor,
        compute_metrics=exact_match,
    )


def with_end(tokens: list[int], end: int | None, most: int) -> list[int]:
    """The tokens with the one that ends a text, which not every tokenizer adds."""
    return tokens if end is None or (tokens and tokens[-1] == end) else [*tokens[: most - 1], end]


def decoded(processor: Any, rows: Iterable[Any]) -> list[str]:
    """Token ids as texts; labels that do not count are left out."""
    return [processor.decode([token for token in row if token >= 0], skip_special_tokens=True).strip() for row in rows]


def seq2seq_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """The source int64 [batch, length] with its mask, and the target [batch, max_target_length]."""
    target = min(option_values(plan)["max_target_length"], length)
    return {"input_ids": ones(batch, length), "attention_mask": ones(batch, length), "labels": ones(batch, target)}


RECIPES = {
    "classification": Recipe(make_trainer=classification_trainer, dry_batch=text_batch, dry_loss=own_loss),
    "regression": Recipe(make_trainer=classification_trainer, dry_batch=text_batch, dry_loss=own_loss),
    "token_classification": Recipe(make_trainer=token_trainer, dry_batch=token_batch, dry_loss=own_loss),
    "question_answering": Recipe(make_trainer=question_trainer, dry_batch=question_batch, dry_loss=own_loss),
    "masked_lm": Recipe(make_trainer=gap_trainer, dry_batch=token_batch, dry_loss=own_loss),
    "seq2seq": Recipe(make_trainer=seq2seq_trainer, dry_batch=seq2seq_batch, dry_loss=own_loss),
}
