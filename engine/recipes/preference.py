"""Learning from preferences: DPO and its kin, KTO, ORPO, CPO, SimPO, and the reward model.

Each `*_loss` is the loss of TRL's trainer of that name for one batch, without the trainer's log book (which reads
numbers, so that it cannot run in a dry run). The tests compare them with the trainers' own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import PretrainedConfig, Trainer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.experimental.orpo.orpo_trainer import log1mexp
from trl.trainer.utils import selective_log_softmax

from engine.objectives import option_values
from engine.plan import Plan
from engine.recipes import Batch, Held, Models, Recipe, Setup
from engine.recipes.causal import (
    add_reference_adapter,
    arguments,
    as_reference,
    completion_logps,
    fuse_head,
    load_reference,
    ones,
    own_options,
    reference_held,
    reference_of,
    tokenised_trainer,
    trainer_settings,
)

# --- DPO and the losses of its config -------------------------------------------------------------------------------


def dpo_trainer(setup: Setup) -> Trainer:
    """TRL's DPOTrainer. The reference is the untrained adapter, or a second model where there is none."""
    options = own_options(setup.plan, "sft_weight")
    weight = option_values(setup.plan)["sft_weight"]
    if weight:
        options |= {"loss_type": [options["loss_type"], "sft"], "loss_weights": [1.0, weight]}
    args = arguments(setup, DPOConfig, max_length=setup.plan.max_length, **options)
    if options["precompute_ref_log_probs"]:  # the reference's answers stand beside the tokens, and are of this model alone
        return DPOTrainer(args=args, ref_model=load_reference(setup), **trainer_settings(setup))
    return tokenised_trainer(setup, DPOTrainer, args, ref_model=load_reference(setup))


def dpo_prepare(model: torch.nn.Module, plan: Plan) -> None:
    """A fused LM head with what the trainer's log book needs, and the reference's adapter."""
    fuse_head(model, "log_probs", "entropy", "mean_logits", "is_top1")
    add_reference_adapter(model)


def dpo_held(plan: Plan) -> tuple[Held, ...]:
    """The reference model, unless it was asked before the training."""
    return () if option_values(plan)["precompute_ref_log_probs"] else reference_held(plan)


def dpo_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """Chosen rows above rejected ones: input_ids, attention_mask, completion_mask, each int64 [2 * batch, length]."""
    values = {name: ones(2 * batch, length) for name in ("input_ids", "attention_mask", "completion_mask")}
    if option_values(plan)["precompute_ref_log_probs"]:
        values |= {"ref_chosen_logps": torch.zeros(batch), "ref_rejected_logps": torch.zeros(batch)}
    return values


def dpo_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The loss of TRL's DPOTrainer for one batch.

    Losses other than sigmoid, hinge, ipo, robust and sigmoid_norm are priced as sigmoid: they differ in arithmetic on
    [batch] numbers only.
    """
    parts = batch["input_ids"], batch["attention_mask"], batch["completion_mask"]
    per_token = completion_logps(model, *parts)
    chosen, rejected = per_token.sum(1).chunk(2)
    if "ref_chosen_logps" in batch:
        reference_chosen, reference_rejected = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
    else:
        with torch.no_grad(), as_reference(model, held):
            reference_chosen, reference_rejected = completion_logps(reference_of(model, held), *parts).sum(1).chunk(2)
    scores = chosen - reference_chosen, rejected - reference_rejected
    loss = _pair_loss(plan, *scores, *batch["completion_mask"].sum(1).clamp(min=1).chunk(2)).mean()
    weight = option_values(plan)["sft_weight"]
    if not weight:
        return loss
    tokens = batch["completion_mask"][:, 1:].chunk(2)[0].sum()
    return loss - weight * chosen.sum() / tokens


def _pair_loss(
    plan: Plan, chosen: torch.Tensor, rejected: torch.Tensor, chosen_tokens: torch.Tensor, rejected_tokens: torch.Tensor
) -> torch.Tensor:
    """[batch] losses from the log-ratios [batch] of chosen and rejected answers."""
    options = option_values(plan)
    beta, smoothing, kind = options["beta"], options["label_smoothing"], options["loss_type"]
    margin = chosen - rejected
    per_token = chosen / chosen_tokens - rejected / rejected_tokens
    if kind == "hinge":
        return torch.relu(1 - beta * margin)
    if kind == "ipo":
        return (per_token - 1 / (2 * beta)) ** 2
    if kind == "sigmoid_norm":
        return -F.logsigmoid(beta * per_token)
    if kind == "robust":
        clean, flipped = F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)
        return (smoothing * flipped - (1 - smoothing) * clean) / (1 - 2 * smoothing)
    return -F.logsigmoid(beta * margin)


# --- KTO ------------------------------------------------------------------------------------------------------------


def kto_trainer(setup: Setup) -> Trainer:
    """TRL's KTOTrainer on single answers with a mark."""
    args = arguments(setup, KTOConfig, max_length=setup.plan.max_length, **own_options(setup.plan))
    return tokenised_trainer(setup, KTOTrainer, args, ref_model=load_reference(setup))


def kto_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """Answers and, for the divergence, answers of other prompts: [batch, length] each; label is bool [batch]."""
    names = ["input_ids", "attention_mask", "completion_mask"]
    if _needs_divergence(plan):
        names += [f"KL_{name}" for name in names]
    return {name: ones(batch, length) for name in names} | {"label": torch.ones(batch, dtype=torch.bool)}


def kto_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The loss of TRL's KTOTrainer for one batch (equation 7 of the paper)."""
    options = option_values(plan)
    parts = batch["input_ids"], batch["attention_mask"], batch["completion_mask"]
    with torch.no_grad():
        other_logps = _other_logps(model, batch)
    logps = completion_logps(model, *parts).sum(1)
    with torch.no_grad(), as_reference(model, held):
        reference = reference_of(model, held)
        reference_other_logps = _other_logps(reference, batch)
        reference_logps = completion_logps(reference, *parts).sum(1)
    ratios = logps - reference_logps
    divergence = (other_logps - reference_other_logps).mean().clamp(min=0)
    if options["loss_type"] == "kto":
        good = 1 - torch.sigmoid(options["beta"] * (ratios - divergence))
        bad = 1 - torch.sigmoid(options["beta"] * (divergence - ratios))
    else:
        good, bad = 1 - torch.sigmoid(options["beta"] * ratios), torch.sigmoid(options["beta"] * ratios)
    return torch.where(batch["label"].bool(), options["desirable_weight"] * good, options["undesirable_weight"] * bad).mean()


def _needs_divergence(plan: Plan) -> bool:
    return option_values(plan)["loss_type"] == "kto"


def _other_logps(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """[batch] log-probabilities of the answers of other prompts; 0 for a loss that does not ask for them."""
    if "KL_input_ids" not in batch:
        return torch.zeros(())
    parts = (batch[f"KL_{name}"] for name in ("input_ids", "attention_mask", "completion_mask"))
    return completion_logps(model, *parts).sum(1)


# --- ORPO, CPO and SimPO: no reference, and all logits at once ------------------------------------------------------


def orpo_trainer(setup: Setup) -> Trainer:
    """TRL's ORPOTrainer."""
    args = arguments(setup, ORPOConfig, max_length=setup.plan.max_length, **own_options(setup.plan))
    return tokenised_trainer(setup, ORPOTrainer, args)


def cpo_trainer(setup: Setup) -> Trainer:
    """TRL's CPOTrainer; SimPO is one of its losses."""
    loss_type = {"loss_type": "simpo"} if setup.plan.objective == "simpo" else {}
    args = arguments(setup, CPOConfig, max_length=setup.plan.max_length, **own_options(setup.plan), **loss_type)
    return tokenised_trainer(setup, CPOTrainer, args)


def pair_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """input_ids, attention_mask and labels of the chosen and of the rejected rows, each int64 [batch, length]."""
    parts = ("input_ids", "attention_mask", "labels")
    return {f"{side}_{part}": ones(batch, length) for side in ("chosen", "rejected") for part in parts}


def _pair_forward(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(logits [2 * batch, tokens, vocabulary], ids, attention mask, labels) of chosen above rejected rows."""
    ids, mask, labels = (
        _stacked(batch[f"chosen_{part}"], batch[f"rejected_{part}"], fill)
        for part, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
    )
    return model(ids, attention_mask=mask, use_cache=False).logits, ids, mask, labels


def _stacked(above: torch.Tensor, below: torch.Tensor, fill: int) -> torch.Tensor:
    width = max(above.size(1), below.size(1))
    return torch.cat([F.pad(part, (0, width - part.size(1)), value=fill) for part in (above, below)])


def _sequence_logps(logits: torch.Tensor, labels: torch.Tensor, *, mean: bool) -> torch.Tensor:
    """Sum or mean [rows] of the log-probabilities of the labelled tokens."""
    labels = labels[:, 1:]
    labelled = labels != -100
    per_token = selective_log_softmax(logits[:, :-1], labels.masked_fill(~labelled, 0)) * labelled
    return per_token.sum(-1) / labelled.sum(-1) if mean else per_token.sum(-1)


def _likelihood(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.size(-1)), labels[:, 1:].reshape(-1))


def orpo_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The loss of TRL's ORPOTrainer: likelihood of the chosen row, prompt and all, less beta times the odds ratio."""
    logits, ids, mask, labels = _pair_forward(model, batch)
    rows = batch["chosen_input_ids"].size(0)
    likelihood = _likelihood(logits[:rows], ids.masked_fill(mask == 0, -100)[:rows])
    chosen, rejected = (part.float() for part in _sequence_logps(logits, labels, mean=True).chunk(2))
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return likelihood - (option_values(plan)["beta"] * F.logsigmoid(log_odds)).mean()


def cpo_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The loss of TRL's CPOTrainer, with SimPO's where that is the objective."""
    options = option_values(plan)
    kind = options.get("loss_type", "simpo")
    logits, _, _, labels = _pair_forward(model, batch)
    rows = batch["chosen_input_ids"].size(0)
    likelihood = _likelihood(logits[:rows], labels[:rows]) if options["cpo_alpha"] else 0.0
    chosen, rejected = _sequence_logps(logits, labels, mean=kind in ("ipo", "simpo")).chunk(2)
    beta, smoothing = options["beta"], options.get("label_smoothing", 0.0)
    margin = chosen - rejected - (options["simpo_gamma"] / beta if kind == "simpo" else 0.0)
    if kind == "hinge":
        losses = torch.relu(1 - beta * margin)
    elif kind == "ipo":
        losses = (margin - 1 / (2 * beta)) ** 2
    else:
        losses = -F.logsigmoid(beta * margin) * (1 - smoothing) - F.logsigmoid(-beta * margin) * smoothing
    return losses.mean() + options["cpo_alpha"] * likelihood


# --- the reward model -----------------------------------------------------------------------------------------------


def reward_trainer(setup: Setup) -> Trainer:
    """TRL's RewardTrainer."""
    args = arguments(setup, RewardConfig, max_length=setup.plan.max_length, **own_options(setup.plan))
    return tokenised_trainer(setup, RewardTrainer, args)


def reward_batch(config: PretrainedConfig, plan: Plan, batch: int, length: int) -> Batch:
    """Chosen rows above rejected ones: input_ids and attention_mask, each int64 [2 * batch, length]."""
    return {name: ones(2 * batch, length) for name in ("input_ids", "attention_mask")}


def reward_loss(model: torch.nn.Module, batch: Batch, plan: Plan, held: Models) -> torch.Tensor:
    """The loss of TRL's RewardTrainer: the chosen answer should score higher (Bradley-Terry)."""
    chosen, rejected = model(**batch, use_cache=False).logits.squeeze(-1).chunk(2)
    loss = -F.logsigmoid(chosen - rejected).mean()
    centring = option_values(plan)["center_rewards_coefficient"]
    return loss if centring is None else loss + centring * ((chosen + rejected) ** 2).mean()


RECIPES = {
    "dpo": Recipe(make_trainer=dpo_trainer, dry_batch=dpo_batch, dry_loss=dpo_loss, held=dpo_held, prepare=dpo_prepare),
    "kto": Recipe(make_trainer=kto_trainer, dry_batch=kto_batch, dry_loss=kto_loss, held=reference_held, prepare=dpo_prepare),
    "orpo": Recipe(make_trainer=orpo_trainer, dry_batch=pair_batch, dry_loss=orpo_loss),
    "cpo": Recipe(make_trainer=cpo_trainer, dry_batch=pair_batch, dry_loss=cpo_loss),
    "simpo": Recipe(make_trainer=cpo_trainer, dry_batch=pair_batch, dry_loss=cpo_loss),
    "reward": Recipe(make_trainer=reward_trainer, dry_batch=reward_batch, dry_loss=reward_loss),
}
