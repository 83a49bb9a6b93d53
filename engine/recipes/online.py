"""Learning from what the model itself writes: GRPO, RLOO, RLHF and distillation.

A step first writes completions (`phases`: reading the prompts, then one pass for each new token), scores them, asks
the old and the reference policy for log-probabilities, and only then computes the loss. Each `*_loss` is that of TRL's
trainer without its log book; the tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PretrainedConfig, Trainer
from trl import DistillationConfig, DistillationTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from engine.modeling import build
from engine.objectives import option_values, rewards
from engine.plan import Plan
from engine.recipes import Batch, Held, Models, Phase, Recipe, Setup
from engine.recipes.causal import (
    add_reference_adapter,
    arguments,
    as_reference,
    completion_logps,
    fuse_head,
    has_adapter,
    ones,
    own_options,
    reference_held,
    reference_of,
    token_batch,
    trainer_settings,
)

# --- GRPO and RLOO, with rules or with a reward model ---------------------------------------------------------------

_NOT_IN_CONFIG = ("reward_funcs", "pattern", "target_length", "reward_model", "policy_trainer")


def policy_trainer(setup: Setup) -> Trainer:
    """TRL's GRPOTrainer or RLOOTrainer. The batch size counts completions, as in TRL."""
    classes = (GRPOTrainer, GRPOConfig) if uses_grpo(setup.plan) else (RLOOTrainer, RLOOConfig)
    group = option_values(setup.plan)["num_generations"]
    whole_groups = -(-setup.plan.per_device_train_batch_size // group) * group
    args = arguments(setup, classes[1], per_device_eval_batch_size=whole_groups, **own_options(setup.plan, *_NOT_IN_CONFIG))
    scorers, tokenizers = _scorers(setup)
    return classes[0](args=args, reward_funcs=scorers, reward_processing_classes=tokenizers, **trainer_settings(setup))


def uses_grpo(plan: Plan) -> bool:
    """Whether GRPO optimises the policy; else RLOO does."""
    return plan.objective == "grpo" or option_values(plan).get("policy_trainer") == "grpo"


def _scorers(setup: Setup) -> tuple[list[Any], list[Any]]:
    """(reward functions or reward model, the tokenizer of each)."""
    if setup.plan.objective == "rlhf":
        plan = reward_plan(setup.plan)
        return [build.load_base(plan, build.device_here()).eval()], [build.load_processor(plan)]
    names = rewards.names_of(option_values(setup.plan)["reward_funcs"])
    scorers = [as_trl_reward(name, rewards.find(name), option_values(setup.plan)) for name in names]
    return scorers, [None] * len(scorers)


def as_trl_reward(name: str, reward: rewards.Reward, options: dict[str, Any]) -> Callable[..., list[float]]:
    """A reward of ours as TRL calls it: texts or chats in, and every other column of the rows as a list."""

    def score(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        answers = [answer if isinstance(answer, str) else answer[-1]["content"] for answer in completions]
        lists = {key: values for key, values in columns.items() if isinstance(values, list) and len(values) == len(answers)}
        rows = [{key: values[place] for key, values in lists.items()} for place in range(len(answers))]
        return reward(answers, rows, options)

    score.__name__ = name
    return score


def reward_plan(plan: Plan) -> Plan:
    """The reward model of an RLHF plan as a plan of its own, with which it is loaded or built."""
    return Plan(
        model=option_values(plan)["reward_model"],
        method="full",
        objective="reward",
        precision=plan.precision,
        attn_implementation=plan.attn_implementation,
        max_length=plan.max_length,
    )


def policy_held(plan: Plan) -> tuple[Held, ...]:
    """The reference model where beta asks for one and no adapter stands for it, and the reward model of RLHF."""
    reference = reference_held(plan) if option_values(plan)["beta"] else ()
    return reference + ((Held(role="reward", plan=reward_plan(plan)),) if plan.objective == "rlhf" else ())


def policy_prepare(model: torch.nn.Module, plan: Plan) -> None:
    """A fused LM head at the sampling temperature, and the reference's adapter where beta asks for one."""
    options = option_values(plan)  # of a held model's plan too, which has other options
    if has_adapter(model) and options.get("beta"):
        add_reference_adapter(model)
    fuse_head(model, "log_probs", "entropy", temperature=options.get("temperature", 1.0))


def completion_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """Prompts and completions, each with its mask, int64 [batch, tokens]; together at most `length` tokens."""
    completion = min(option_values(plan)["max_completion_length"], max(length - 1, 1))
    prompt = max(length - completion, 1)
    return {
        "prompt_ids": ones(batch, prompt),
        "prompt_mask": ones(batch, prompt),
        "completion_ids": ones(batch, completion),
        "completion_mask": ones(batch, completion),
        "advantages": torch.zeros(batch),
    }


def _joined(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, attention mask) of prompt and completion, [batch, tokens]."""
    return (
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
    )


def _policy_logps(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Log-probability [batch, completion tokens] of each token of the completions."""
    ids, mask = _joined(batch)
    scored = torch.cat([torch.zeros_like(batch["prompt_mask"]), batch["completion_mask"]], 1)
    return completion_logps(model, ids, mask, scored)[:, -batch["completion_ids"].size(1) :]


def policy_phases(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> Iterator[Phase]:
    """Writing the completions, scoring them, and the log-probabilities that the loss compares with."""
    yield from writing_phases(model, batch)
    if "reward" in held:
        ids, mask = _joined(batch)
        yield Phase(name="score", run=_quietly(lambda: held["reward"](input_ids=ids, attention_mask=mask, use_cache=False)))
    if not uses_grpo(plan):
        yield Phase(name="old log-probabilities", run=_quietly(lambda: _policy_logps(model, batch)))
    if option_values(plan)["beta"]:
        yield Phase(name="reference log-probabilities", run=lambda: reference_logps(model, batch, held))


def writing_phases(model: torch.nn.Module, batch: Batch) -> Iterator[Phase]:
    """Reading the prompt, then one pass for each new token over a cache that has grown to its full length."""
    tokens = batch["completion_ids"].size(1)
    yield Phase(name="read the prompts", run=_quietly(lambda: _read(model, batch["prompt_ids"], batch["prompt_mask"])))
    yield Phase(name="write a token", run=_quietly(lambda: _write_last_token(model, batch)), times=tokens)


def _quietly(work: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return work()

    return run


def _read(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    return model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1).past_key_values


def _write_last_token(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """One decoding pass at the end of the completion. Filling the cache is not part of it, so it comes first."""
    from transformers import DynamicCache

    ids, mask = _joined(batch)
    config = (model.get_base_model() if hasattr(model, "get_base_model") else model).config.get_text_config()
    cache = DynamicCache(config=config)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = next(model.parameters()).dtype
    for layer in range(config.num_hidden_layers):
        past = torch.zeros(ids.size(0), heads, ids.size(1) - 1, width, dtype=dtype)
        cache.update(past, past.clone(), layer)
    return model(input_ids=ids[:, -1:], attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1).logits


def reference_logps(model: torch.nn.Module, batch: Batch, held: Models) -> torch.Tensor:
    """Log-probabilities [batch, completion tokens] of the model as it was before the training."""
    with torch.no_grad(), as_reference(model, held):
        return _policy_logps(reference_of(model, held), batch)


def policy_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The clipped loss of TRL's GRPOTrainer or RLOOTrainer for one batch, at one generation per step.

    GRPO's `old` policy is then the present one (trl 1.16 takes the log-probabilities without their gradient);
    `old_logps` [batch] and `ref_per_token_logps` [batch, tokens] are taken from the batch where it has them.
    """
    options, mask = option_values(plan), batch["completion_mask"]
    logps = _policy_logps(model, batch)
    advantages, clip = batch["advantages"], options["epsilon"]
    if not uses_grpo(plan):
        summed = (logps * mask).sum(1)
        ratio = torch.exp(summed - batch.get("old_logps", summed.detach()))
        return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()
    ratio = torch.exp(logps - batch.get("old_per_token_logps", logps.detach()))
    advantages = advantages.unsqueeze(1)
    per_token = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    if options["beta"]:
        reference = batch["ref_per_token_logps"] if "ref_per_token_logps" in batch else torch.zeros_like(logps)
        difference = reference - logps
        per_token = per_token + options["beta"] * (torch.exp(difference) - difference - 1)
    kind = options.get("loss_type", "dapo")
    if kind == "grpo":
        return ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    if kind == "dr_grpo":
        return (per_token * mask).sum() / (per_token.size(0) * options["max_completion_length"])
    return (per_token * mask).sum() / batch.get("num_items_in_batch", mask.sum()).clamp(min=1.0)


# --- distillation ---------------------------------------------------------------------------------------------------


def teacher_plan(plan: Plan) -> Plan:
    """The teacher as a plan of its own, with which it is loaded or built."""
    return Plan(
        model=option_values(plan)["teacher"],
        method="full",
        precision=plan.precision,
        attn_implementation=plan.attn_implementation,
        max_length=plan.max_length,
    )


def teacher_held(plan: Plan) -> tuple[Held, ...]:
    """The teacher's weights."""
    return (Held(role="teacher", plan=teacher_plan(plan)),)


def distillation_trainer(setup: Setup) -> Trainer:
    """TRL's DistillationTrainer: the student writes, the teacher judges every token."""
    teacher = build.load_base(teacher_plan(setup.plan), build.device_here())
    args = arguments(setup, DistillationConfig, **own_options(setup.plan, "teacher"))
    return DistillationTrainer(args=args, teacher_model=teacher, **trainer_settings(setup))


def distillation_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The loss of TRL's DistillationTrainer: the divergence of the two next-token distributions, projected in tiles."""
    student = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.no_grad():
        theirs = _last_hidden(held["teacher"], batch)
    options = option_values(plan)
    heads = [part.get_output_embeddings() for part in (student, held["teacher"])]
    loss, _, _ = _chunked_divergence_loss(
        _last_hidden(student, batch),
        theirs,
        heads[0].weight,
        heads[1].weight,
        batch["completion_mask"],
        options["beta"],
        num_items_in_batch=batch.get("num_items_in_batch"),
        temperature=options["temperature"],
    )
    return loss


def _last_hidden(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Last hidden states [batch, completion tokens, width] at the positions that predict the completion."""
    ids, mask = _joined(batch)
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden[:, :-1][:, -batch["completion_ids"].size(1) :]


def distillation_phases(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> Iterator[Phase]:
    """The student writes; the teacher reads along in the loss."""
    yield from writing_phases(model, batch)


def offline_trainer(setup: Setup) -> Trainer:
    """TRL's GKDTrainer with no share of on-policy texts: the teacher's distribution on given answers."""
    teacher = build.load_base(teacher_plan(setup.plan), build.device_here())
    args = arguments(setup, GKDConfig, lmbda=0.0, max_length=setup.plan.max_length, **own_options(setup.plan, "teacher"))
    return GKDTrainer(args=args, teacher_model=teacher, **trainer_settings(setup))


def offline_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The loss of TRL's GKDTrainer on given texts: generalised Jensen-Shannon divergence over all logits."""
    options = option_values(plan)
    parts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**parts).logits[:, :-1]
    with torch.no_grad():
        teacher_logits = held["teacher"](**parts).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    per_token = GKDTrainer.generalized_jsd_loss(logits, teacher_logits, beta=options["beta"], reduction="none")
    labelled = labels != -100
    total = (per_token * labelled.unsqueeze(-1)).sum()
    return total / batch.get("num_items_in_batch", labelled.sum()).clamp(min=1)


_POLICY = Recipe(
    make_trainer=policy_trainer,
    dry_batch=completion_batch,
    dry_loss=policy_loss,
    held=policy_held,
    prepare=policy_prepare,
    phases=policy_phases,
)
RECIPES = {
    "grpo": _POLICY,
    "rloo": _POLICY,
    "rlhf": _POLICY,
    "distillation": Recipe(
        make_trainer=distillation_trainer,
        dry_batch=completion_batch,
        dry_loss=distillation_loss,
        held=teacher_held,
        phases=distillation_phases,
    ),
    "distillation_offline": Recipe(
        make_trainer=offline_trainer, dry_batch=token_batch, dry_loss=offline_loss, held=teacher_held
    ),
}
