"""OBJECTIVES: what a model can be trained for, one row each.

A row is all that the form, the checks, the estimator, the worker, the docs and a parametrised test need. It names the
task (which kind of model), the trainer of TRL or transformers, the columns that its rows must have, the figure that
should improve, and the options, which carry the names of the trainer's config. How it is trained is the recipe of the
same key in `engine/recipes/`, which is only imported where something is trained or priced.

Imports methods and the rooms before them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.catalog.tasks import TASKS, Task
from engine.methods import Option
from engine.objectives.rewards import REWARDS
from engine.plan import Knob, Plan

if TYPE_CHECKING:
    from engine.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The figure that the objective should improve: how people call it, and how the trainer logs it (without "eval_").

    `logged` may be "loss" with `perplexity` set: then the figure is exp(loss).
    """

    name: str
    logged: str
    higher_is_better: bool = True
    perplexity: bool = False


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One training objective.

    `shapes` are the kinds of rows that it can learn from (keys of SHAPES, `engine/data/formats.py`). `rate_scale` is how
    much larger or smaller its usual peak learning rate is than that of instruction tuning with the same method.
    """

    key: str
    label: str
    sentence: str
    task: str  # a key of TASKS
    trainer: str  # its class, for the docs
    recipe: str  # the module of `engine/recipes` that has it
    shapes: tuple[str, ...]
    metric: Metric
    paper: str
    options: tuple[Option, ...] = ()
    rate_scale: float = 1.0
    evaluations: int = 10  # over a run, beside the one before its first step
    packs: bool = False  # rows are joined and cut into full sequences wherever they end, so that no token is left out


# --- options, by the names of TRL's configs -------------------------------------------------------------------------


def _number(
    name: str, default: float | None, label: str, help: str, *, minimum: float = 0.0, maximum: float = 1e6, **limits: Any
) -> Option:
    knob = Knob(label=label, help=help, minimum=minimum, maximum=maximum, optional=default is None, **limits)
    return Option(name=name, default=default, knob=knob)


def _count(name: str, default: int, label: str, help: str, *, minimum: int = 1, maximum: int = 65_536) -> Option:
    knob = Knob(label=label, help=help, kind="integer", minimum=minimum, maximum=maximum)
    return Option(name=name, default=default, knob=knob)


def _choice(name: str, default: str, label: str, help: str, choices: tuple[str, ...]) -> Option:
    return Option(name=name, default=default, knob=Knob(label=label, help=help, kind="choice", choices=choices))


def _flag(name: str, default: bool, label: str, help: str, *, group: str = "common") -> Option:
    return Option(name=name, default=default, knob=Knob(label=label, help=help, kind="flag", group=group))


def _text(name: str, default: str, label: str, help: str) -> Option:
    return Option(name=name, default=default, knob=Knob(label=label, help=help, kind="text"))


def _beta(default: float, help: str) -> Option:
    return _number("beta", default, "Beta", help, maximum=100)


_KEEPS_NEAR = "How closely the model stays to where it started: more holds it closer."
_PRECOMPUTE = _flag(
    "precompute_ref_log_probs",
    False,
    "Reference once",
    "Ask the reference model once before the training instead of in every step; later steps are faster and smaller.",
    group="more",
)
_SMOOTHING = _number(
    "label_smoothing", 0.0, "Label smoothing", "The share of pairs that may be the wrong way round.", maximum=0.49, group="more"
)
# The pair losses of TRL 1.16's DPOConfig (https://huggingface.co/docs/trl/dpo_trainer#loss-functions).
DPO_LOSSES = (
    "sigmoid", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sigmoid_norm",
)  # fmt: skip

_SAMPLING = (
    _count("num_generations", 8, "Answers per prompt", "How many answers are written to each prompt and compared.", minimum=2),
    _count("max_completion_length", 64, "Longest answer", "Answers are cut after this many tokens."),
    _number("temperature", 1.0, "Temperature", "How freely the answers are drawn.", minimum=0.01, maximum=10),
)
_REWARDS = (
    Option(
        name="reward_funcs",
        default=("exact_answer",),
        knob=Knob(
            label="Rewards",
            help=f"What is rewarded, by name, with commas between: {', '.join(REWARDS)}; or file.py:function.",
            kind="names",
        ),
    ),
    _text("pattern", r"\d+", "Pattern", "The regular expression that the reward `format` looks for in the whole answer."),
    _count("target_length", 40, "Target length", "The length in characters at which the reward `length` is highest."),
)
_CLIP = _number(
    "epsilon", 0.2, "Clip range", "How far one step may move the odds of a token, as in PPO.", maximum=1, group="more"
)

# Of the answers that are drawn while it trains, and of the clipped objective: TRL's defaults, seldom changed.
_NUCLEUS = _number(
    "top_p", 1.0, "Nucleus", "Draw from the likeliest tokens that make up this share.", maximum=1, above=True, group="more"
)
_PENALTY = _number(
    "repetition_penalty",
    1.0,
    "Repetition penalty",
    "Above 1: words said before are less likely.",
    minimum=0.1,
    maximum=10,
    group="more",
)
_MORE_POLICY = (
    _NUCLEUS,
    _PENALTY,
    _CLIP,
    _number(
        "epsilon_high", None, "Upper clip range", "How far upwards alone. Empty: as far as downwards.", maximum=10, group="more"
    ),
    _flag(
        "mask_truncated_completions",
        False,
        "Leave out cut answers",
        "Answers that were cut at the longest length do not count.",
        group="more",
    ),
)

_MARGIN = Metric(name="reward margin", logged="rewards/margins")
# Peak rates: the default of each TRL config over that of SFTConfig, 2e-5 (the sources of TRL 1.16).
_SMALL_STEPS = 1e-6 / 2e-5
_REWARD_STEPS = 1e-4 / 2e-5
_FRESH_HEAD = 5e-5 / 2e-5  # TrainingArguments' default over SFTConfig's

_ROWS = (
    Objective(
        key="sft",
        label="Instruction tuning (SFT)",
        sentence="Learn to answer like the examples; only the answers count, not the questions.",
        task="causal-lm",
        trainer="trl.SFTTrainer",
        recipe="text",
        shapes=("messages", "prompt-completion", "text"),
        metric=Metric(name="perplexity", logged="loss", higher_is_better=False, perplexity=True),
        paper="https://arxiv.org/abs/2203.02155",
    ),
    Objective(
        key="dapt",
        label="Domain-adaptive pretraining (DAPT)",
        sentence="Read plain text of your field, packed into full sequences, before any instruction tuning.",
        task="causal-lm",
        trainer="trl.SFTTrainer",
        recipe="text",
        shapes=("text", "messages", "prompt-completion"),
        metric=Metric(name="perplexity", logged="loss", higher_is_better=False, perplexity=True),
        packs=True,
        paper="https://arxiv.org/abs/2004.10964",
    ),
    Objective(
        key="dpo",
        label="Preferences (DPO, IPO and kin)",
        sentence="Learn from pairs of a better and a worse answer, held near the model as it was.",
        task="causal-lm",
        trainer="trl.DPOTrainer",
        recipe="preference",
        shapes=("preference",),
        metric=_MARGIN,
        paper="https://arxiv.org/abs/2305.18290",
        rate_scale=_SMALL_STEPS,
        options=(
            _beta(0.1, _KEEPS_NEAR),
            _choice("loss_type", "sigmoid", "Loss", "How the pair is scored; sigmoid is DPO itself.", DPO_LOSSES),
            _number(
                "sft_weight",
                0.0,
                "Weight of the likelihood",
                "Beside the pairs: how much the likelihood of the better answer itself counts (TRL's loss_type sft with this "
                "weight). The pairs alone may push the worse answer down without raising the better one.",
                maximum=100,
            ),
            _SMOOTHING,
            _PRECOMPUTE,
            _flag(
                "use_weighting",
                False,
                "Weigh by likelihood (WPO)",
                "Pairs that the model itself would write count more.",
                group="more",
            ),
            _number(
                "ld_alpha",
                None,
                "Share of the surplus length (LD-DPO)",
                "How much the tokens beyond the shorter answer count. Empty: as much as the others.",
                maximum=1,
                group="more",
            ),
        ),
    ),
    Objective(
        key="orpo",
        label="Preferences without a reference (ORPO)",
        sentence="Learn the better answers and turn from the worse ones in one step; no reference model is needed.",
        task="causal-lm",
        trainer="trl.experimental.orpo.ORPOTrainer",
        recipe="preference",
        shapes=("preference",),
        metric=_MARGIN,
        paper="https://arxiv.org/abs/2403.07691",
        rate_scale=8e-6 / 2e-5,  # the paper's rate for 7B models
        options=(_beta(0.1, "How much the odds between the two answers count beside the likelihood of the better one."),),
    ),
    Objective(
        key="kto",
        label="Thumbs up and down (KTO)",
        sentence="Learn from single answers that are marked good or bad, without pairs.",
        task="causal-lm",
        trainer="trl.KTOTrainer",
        recipe="preference",
        shapes=("unpaired-preference",),
        metric=_MARGIN,
        paper="https://arxiv.org/abs/2402.01306",
        rate_scale=_SMALL_STEPS,
        options=(
            _beta(0.1, _KEEPS_NEAR),
            _choice("loss_type", "kto", "Loss", "KTO itself, or APO-zero for single answers.", ("kto", "apo_zero_unpaired")),
            _number("desirable_weight", 1.0, "Weight of good answers", "Raise it where good answers are rarer.", maximum=100),
            _number("undesirable_weight", 1.0, "Weight of bad answers", "Raise it where bad answers are rarer.", maximum=100),
        ),
    ),
    Objective(
        key="cpo",
        label="Contrastive preferences (CPO)",
        sentence="Preference pairs without a reference model, with a term that keeps the better answers likely.",
        task="causal-lm",
        trainer="trl.experimental.cpo.CPOTrainer",
        recipe="preference",
        shapes=("preference",),
        metric=_MARGIN,
        paper="https://arxiv.org/abs/2401.08417",
        rate_scale=_SMALL_STEPS,
        options=(
            _beta(0.1, "How sharply the two answers are told apart."),
            _choice("loss_type", "sigmoid", "Loss", "How the pair is scored.", ("sigmoid", "hinge", "ipo")),
            _number("cpo_alpha", 1.0, "Weight of the likelihood", "How much the likelihood of the better answer counts."),
            _SMOOTHING,
        ),
    ),
    Objective(
        key="simpo",
        label="Simple preferences (SimPO)",
        sentence="Preference pairs scored by the mean likelihood of a token, so that long answers are not favoured.",
        task="causal-lm",
        trainer="trl.experimental.cpo.CPOTrainer",
        recipe="preference",
        shapes=("preference",),
        metric=_MARGIN,
        paper="https://arxiv.org/abs/2405.14734",
        rate_scale=_SMALL_STEPS,
        options=(
            _beta(2.0, "How sharply the two answers are told apart; the paper uses 2 to 2.5."),
            _number("simpo_gamma", 0.5, "Margin", "By how much the better answer should lead.", maximum=100),
            _number("cpo_alpha", 0.0, "Weight of the likelihood", "How much the likelihood of the better answer counts."),
        ),
    ),
    Objective(
        key="reward",
        label="Reward model",
        sentence="Learn to score answers from pairs of a better and a worse one; the first half of RLHF.",
        task="regression",
        trainer="trl.RewardTrainer",
        recipe="preference",
        shapes=("preference",),
        metric=Metric(name="accuracy", logged="accuracy"),
        paper="https://arxiv.org/abs/2203.02155",
        rate_scale=_REWARD_STEPS,
        options=(
            _number(
                "center_rewards_coefficient",
                None,
                "Centring",
                "Pulls the mean score towards 0. Empty: not at all; 0.01 is usual.",
                maximum=10,
            ),
        ),
    ),
    Objective(
        key="grpo",
        label="Reinforcement by rules (GRPO)",
        sentence="The model writes several answers to each prompt; rules score them, and the better ones are made likelier.",
        task="causal-lm",
        trainer="trl.GRPOTrainer",
        recipe="online",
        shapes=("prompt-only", "messages", "prompt-completion"),
        metric=Metric(name="mean reward", logged="reward"),
        paper="https://arxiv.org/abs/2402.03300",
        rate_scale=_SMALL_STEPS,
        evaluations=2,
        options=(
            *_REWARDS,
            *_SAMPLING,
            _beta(0.0, _KEEPS_NEAR + " 0 needs no reference model."),
            *_MORE_POLICY,
            _choice(
                "loss_type",
                "dapo",
                "Loss",
                "How the tokens of long and short answers are weighed.",
                ("dapo", "grpo", "dr_grpo", "bnpo"),
            ),
        ),
    ),
    Objective(
        key="rloo",
        label="Reinforcement, leave-one-out (RLOO)",
        sentence="Like GRPO, with each answer compared with the mean of the others to the same prompt.",
        task="causal-lm",
        trainer="trl.RLOOTrainer",
        recipe="online",
        shapes=("prompt-only", "messages", "prompt-completion"),
        metric=Metric(name="mean reward", logged="reward"),
        paper="https://arxiv.org/abs/2402.14740",
        rate_scale=_SMALL_STEPS,
        evaluations=2,
        options=(*_REWARDS, *_SAMPLING, _beta(0.05, _KEEPS_NEAR), *_MORE_POLICY),
    ),
    Objective(
        key="rlhf",
        label="Reinforcement by a reward model (RLHF)",
        sentence=(
            "A reward model that you trained scores the answers, and RLOO or GRPO makes the better ones likelier; "
            "TRL no longer ships PPO, whose clipped objective both of them use."
        ),
        task="causal-lm",
        trainer="trl.RLOOTrainer or trl.GRPOTrainer",
        recipe="online",
        shapes=("prompt-only", "messages", "prompt-completion"),
        metric=Metric(name="mean reward", logged="reward"),
        paper="https://arxiv.org/abs/2203.02155",
        rate_scale=_SMALL_STEPS,
        evaluations=2,
        options=(
            _text("reward_model", "", "Reward model", "The folder or the id of the reward model that scores the answers."),
            _choice("policy_trainer", "rloo", "Trainer", "Which of the two optimises the policy.", ("rloo", "grpo")),
            *_SAMPLING,
            _beta(0.05, _KEEPS_NEAR),
            *_MORE_POLICY,
        ),
    ),
    Objective(
        key="distillation",
        label="Distillation, on its own answers",
        sentence="A small model answers, and a larger teacher shows it at every token what it would have said.",
        task="causal-lm",
        trainer="trl.DistillationTrainer",
        recipe="online",
        shapes=("prompt-only", "messages", "prompt-completion"),
        metric=Metric(name="divergence from the teacher", logged="loss", higher_is_better=False),
        paper="https://arxiv.org/abs/2306.13649",
        evaluations=2,
        options=(
            _text("teacher", "", "Teacher", "The folder or the id of the teacher; it must share the student's vocabulary."),
            _count("max_completion_length", 64, "Longest answer", "Answers are cut after this many tokens."),
            _number("temperature", 1.0, "Temperature", "How freely the answers are drawn.", minimum=0.01, maximum=10),
            _number("beta", 1.0, "Divergence", "0: forward KL, 1: reverse KL, between: Jensen-Shannon.", maximum=1),
        ),
    ),
    Objective(
        key="distillation_offline",
        label="Distillation, on given texts",
        sentence="The student learns the teacher's whole next-token distribution on answers that you have already.",
        task="causal-lm",
        trainer="trl.experimental.gkd.GKDTrainer",
        recipe="online",
        shapes=("messages", "prompt-completion"),
        metric=Metric(name="divergence from the teacher", logged="loss", higher_is_better=False),
        paper="https://arxiv.org/abs/1503.02531",
        options=(
            _text("teacher", "", "Teacher", "The folder or the id of the teacher; it must share the student's vocabulary."),
            _number("beta", 0.5, "Divergence", "0: forward KL, 1: reverse KL, between: Jensen-Shannon.", maximum=1),
        ),
    ),
    Objective(
        key="classification",
        label="Text classification",
        sentence="Learn to put a text into one of your classes.",
        task="sequence-classification",
        trainer="transformers.Trainer",
        recipe="labels",
        shapes=("text-label",),
        metric=Metric(name="accuracy", logged="accuracy"),
        paper="https://arxiv.org/abs/1810.04805",
        rate_scale=_FRESH_HEAD,
    ),
    Objective(
        key="regression",
        label="A score for a text (regression)",
        sentence="Learn to give a text a number, such as a rating.",
        task="regression",
        trainer="transformers.Trainer",
        recipe="labels",
        shapes=("text-label",),
        metric=Metric(name="mean absolute error", logged="mean_absolute_error", higher_is_better=False),
        paper="https://arxiv.org/abs/1810.04805",
        rate_scale=_FRESH_HEAD,
    ),
    Objective(
        key="token_classification",
        label="Labels for words (token classification)",
        sentence="Learn to mark words, such as the names of people and places.",
        task="token-classification",
        trainer="transformers.Trainer",
        recipe="labels",
        shapes=("tokens-tags",),
        metric=Metric(name="F1 of the marked words", logged="f1"),
        paper="https://arxiv.org/abs/1810.04805",
        rate_scale=_FRESH_HEAD,
    ),
    Objective(
        key="question_answering",
        label="Finding answers in a text (extractive)",
        sentence="Learn to mark the words of a text that answer a question.",
        task="question-answering",
        trainer="transformers.Trainer",
        recipe="labels",
        shapes=("question-answering",),
        metric=Metric(name="exact match", logged="exact_match"),
        paper="https://arxiv.org/abs/1606.05250",
        rate_scale=_FRESH_HEAD,
    ),
    Objective(
        key="masked_lm",
        label="Filling gaps (masked-LM pretraining)",
        sentence="Let an encoder read plain text of your field by guessing the words that are hidden from it.",
        task="masked-lm",
        trainer="transformers.Trainer",
        recipe="labels",
        shapes=("text",),
        metric=Metric(name="perplexity", logged="loss", higher_is_better=False, perplexity=True),
        paper="https://arxiv.org/abs/1810.04805",
        rate_scale=_FRESH_HEAD,
        options=(
            _number(
                "mlm_probability", 0.15, "Hidden share", "The share of the words that is hidden.", minimum=0.01, maximum=0.9
            ),
        ),
    ),
    Objective(
        key="seq2seq",
        label="Text to text (summaries, translation)",
        sentence="Learn to turn one text into another with an encoder-decoder model such as T5.",
        task="seq2seq",
        trainer="transformers.Seq2SeqTrainer",
        recipe="labels",
        shapes=("source-target",),
        metric=Metric(name="exact match", logged="exact_match"),
        paper="https://arxiv.org/abs/1910.10683",
        rate_scale=_FRESH_HEAD,
        options=(_count("max_target_length", 64, "Longest answer", "Targets are cut after this many tokens."),),
    ),
    Objective(
        key="sentence_embeddings",
        label="Sentence embeddings (contrastive)",
        sentence="Learn vectors in which texts of the same meaning lie close; the others of a batch are the counter-examples.",
        task="sentence-embedding",
        trainer="transformers.Trainer",
        recipe="vectors",
        shapes=("pairs",),
        metric=Metric(name="recall@1", logged="recall_at_1"),
        paper="https://arxiv.org/abs/1908.10084",
        rate_scale=_FRESH_HEAD,
        options=(
            _number(
                "temperature", 0.05, "Temperature", "How sharply the nearest text is picked out.", minimum=0.001, maximum=1
            ),
        ),
    ),
    Objective(
        key="image_classification",
        label="Image classification",
        sentence="Learn to put an image into one of your classes.",
        task="image-classification",
        trainer="transformers.Trainer",
        recipe="vision",
        shapes=("image-label",),
        metric=Metric(name="accuracy", logged="accuracy"),
        paper="https://arxiv.org/abs/2010.11929",
        rate_scale=_FRESH_HEAD,
    ),
    Objective(
        key="object_detection",
        label="Object detection",
        sentence="Learn to draw a box round each thing in an image and to name it, with a model of DETR's family.",
        task="object-detection",
        trainer="transformers.Trainer",
        recipe="detection",
        shapes=("image-objects",),
        metric=Metric(name="mAP at half overlap", logged="map_50"),
        paper="https://arxiv.org/abs/2005.12872",
        rate_scale=_FRESH_HEAD,
    ),
    Objective(
        key="clip",
        label="Images and texts (CLIP)",
        sentence="Learn vectors in which an image and its description lie close.",
        task="image-text-contrastive",
        trainer="transformers.Trainer",
        recipe="vectors",
        shapes=("image-text",),
        metric=Metric(name="recall@1", logged="recall_at_1"),
        paper="https://arxiv.org/abs/2103.00020",
        rate_scale=_FRESH_HEAD,
    ),
    Objective(
        key="captioning",
        label="Describing images (captions)",
        sentence="Learn to say in words what an image shows.",
        task="image-text-to-text",
        trainer="transformers.Trainer",
        recipe="vision",
        shapes=("image-text",),
        metric=Metric(name="token accuracy", logged="mean_token_accuracy"),
        paper="https://arxiv.org/abs/2304.08485",
    ),
    Objective(
        key="vqa",
        label="Questions about images (VQA)",
        sentence="Learn to answer questions about an image.",
        task="image-text-to-text",
        trainer="transformers.Trainer",
        recipe="vision",
        shapes=("image-question-answer", "image-messages"),
        metric=Metric(name="exact match", logged="exact_match"),
        paper="https://arxiv.org/abs/2304.08485",
    ),
)

OBJECTIVES: dict[str, Objective] = {row.key: row for row in _ROWS}


# --- what a plan's objective means ----------------------------------------------------------------------------------


def option_values(plan: Plan) -> dict[str, Any]:
    """The objective's options as the run will use them: the plan's own, else the row's defaults."""
    return {option.name: option.default for option in OBJECTIVES[plan.objective].options} | dict(plan.objective_options)


def task_of(plan: Plan) -> Task:
    """The kind of model that the plan's objective trains."""
    return TASKS[OBJECTIVES[plan.objective].task]


def packs(plan: Plan) -> bool:
    """Whether the plan's rows are packed into sequences that are all as long as `max_length`."""
    return plan.packing or OBJECTIVES[plan.objective].packs


def recipe(plan: Plan) -> Recipe:
    """How the plan's objective is trained and priced. Imports torch."""
    module = importlib.import_module(f"engine.recipes.{OBJECTIVES[plan.objective].recipe}")
    return module.RECIPES[plan.objective]
