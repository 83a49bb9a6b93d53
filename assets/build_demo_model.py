"""Build the demo model: a tiny Llama that the app can fine-tune on a laptop's CPU in under a minute.

    python assets/build_demo_model.py                 # writes assets/demo_model (12 to 19 minutes on 2 cores)
    python assets/build_demo_model.py --steps 20 --out /tmp/try   # a quick look at the whole path

Everything is made here, from a seed: the text (`demo_text`), the tokenizer, the weights, the measurements and the model
card. The result is a plain Hugging Face folder that AutoModelForCausalLM, AutoTokenizer and pipeline() can open.
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from demo_text.corpus import Document, write_documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 0
TRAIN_DOCUMENTS = 145_000  # about one pass at the default number of steps
HELD_OUT_DOCUMENTS = 1_000
TOKENIZER_DOCUMENTS = 30_000

VOCABULARY = 2_048
ROW_TOKENS, ROWS_PER_STEP = 512, 8
PEAK_LEARNING_RATE, WARMUP_STEPS = 2.5e-3, 80

PAD, END = "<pad>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
# `generation` marks what TRL's assistant_only_loss trains on: the answer and the end of the turn.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}
{%- else -%}
<|{{ message['role'] }}|>{{ message['content'] }}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""

SAMPLE_PROMPTS = (
    "What colour is the sky?", "Where does a fish live?", "What is two plus three?", "Tell me a story about a dog.",
    "What day comes after Monday?", "What does a baker do?", "I am cold. What should I do?", "Who are you?",
    "Name three fruits.", "Who is the king of Narnor?",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the model card says about a build."""

    parameters: int
    corpus_tokens: int
    trained_tokens: int
    steps: int
    minutes: float
    final_loss: float
    held_out_tokens: int
    perplexity: float
    unigram_perplexity: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo_model")
    parser.add_argument("--steps", type=int, default=1_400)
    args = parser.parse_args()

    started = time.time()
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer()
    rows = pack(tokenizer, write_documents(TRAIN_DOCUMENTS, seed=SEED, held_out=False))
    print(f"{rows.numel():,} training tokens in {len(rows):,} rows, {time.time() - started:.0f} s", flush=True)

    model = new_model(tokenizer)
    final_loss = pretrain(model, rows, steps=args.steps)

    held_out = [encode(tokenizer, document) for document in write_documents(HELD_OUT_DOCUMENTS, seed=SEED, held_out=True)]
    report = Report(
        parameters=model.num_parameters(), corpus_tokens=rows.numel(), trained_tokens=args.steps * ROWS_PER_STEP * ROW_TOKENS,
        steps=args.steps, minutes=(time.time() - started) / 60, final_loss=final_loss,
        held_out_tokens=sum(len(ids) - 1 for ids in held_out), perplexity=perplexity(model, held_out),
        unigram_perplexity=unigram_perplexity(rows, held_out),
    )  # fmt: skip
    model.to(torch.bfloat16)  # half the bytes; the answers below come from what is saved
    tokenizer.save_pretrained(args.out)
    model.save_pretrained(args.out)
    (args.out / "README.md").write_text(model_card(report, answer(model, tokenizer, SAMPLE_PROMPTS)), encoding="utf-8")
    print(report)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE: every text has an encoding, so no unknown token is needed."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (plain_text(document) for document in write_documents(TOKENIZER_DOCUMENTS, seed=SEED, held_out=False))
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=END, additional_special_tokens=list(ROLES), chat_template=CHAT_TEMPLATE,
        model_max_length=ROW_TOKENS, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def plain_text(document: Document) -> str:
    return document if isinstance(document, str) else "\n".join(message["content"] for message in document)


def encode(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[int]:
    """Token ids of one document; a plain text ends with the same token as a turn."""
    text = document + END if isinstance(document, str) else tokenizer.apply_chat_template(document, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def pack(tokenizer: PreTrainedTokenizerFast, documents: Iterator[Document]) -> Tensor:
    """All documents end to end in rows [n, ROW_TOKENS]; every row starts with the start of a document.

    A model that only ever saw rows cut anywhere would meet the start of a chat at position 0 too rarely.
    """
    full_rows, row = [], []
    for document in documents:
        row += encode(tokenizer, document)
        if len(row) >= ROW_TOKENS:
            full_rows.append(row[:ROW_TOKENS])
            row = []
    return torch.tensor(full_rows)


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A 3.5 M Llama; every size is a multiple of 64 so that 4-bit blocks (bitsandbytes NF4) fit."""
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=ROW_TOKENS,
        bos_token_id=None, eos_token_id=end, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=160, eos_token_id=[end], pad_token_id=tokenizer.pad_token_id, bos_token_id=None
    )
    return model


def pretrain(model: LlamaForCausalLM, rows: Tensor, *, steps: int) -> float:
    """AdamW with warmup and cosine decay to a tenth; returns the mean loss of the last 20 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    order = torch.cat([torch.randperm(len(rows)) for _ in range(math.ceil(steps * ROWS_PER_STEP / len(rows)))])
    losses, started = [], time.time()
    model.train()
    for step in range(steps):
        batch = rows[order[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP]]  # [rows, tokens]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}/{steps} loss {losses[-1]:.3f} {time.time() - started:.0f} s", flush=True)
    model.eval()
    return sum(losses[-20:]) / len(losses[-20:])


def learning_rate_factor(step: int, steps: int) -> float:
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, documents: list[list[int]]) -> float:
    """exp of the mean negative log-likelihood per token, each document on its own; its first token is given."""
    total, count = 0.0, 0
    for ids in documents:
        row = torch.tensor([ids[:ROW_TOKENS]])
        total += model(input_ids=row, labels=row).loss.item() * (row.shape[1] - 1)
        count += row.shape[1] - 1
    return math.exp(total / count)


def unigram_perplexity(rows: Tensor, documents: list[list[int]]) -> float:
    """The same measure for the best guess that ignores context: each token's share of the training rows, plus one."""
    counts = Counter(rows.flatten().tolist())
    everything = rows.numel() + VOCABULARY
    tokens = [token for ids in documents for token in ids[1:ROW_TOKENS]]
    return math.exp(-sum(math.log((counts[token] + 1) / everything) for token in tokens) / len(tokens))


@torch.no_grad()
def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for prompt in prompts:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        answered = model.generate(**asked)[0, asked["input_ids"].shape[1] :]
        pairs.append((prompt, tokenizer.decode(answered, skip_special_tokens=True)))
    return pairs


def model_card(report: Report, samples: list[tuple[str, str]]) -> str:
    talk = "\n".join(f"| {prompt} | {said} |" for prompt, said in samples)
    return f"""\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# Fitting Room demo model

A tiny Llama for trying out fine-tuning on a CPU. It answers short questions about a small everyday world and tells small
stories, in simple English. It is made to be trained further in seconds, not to be relied on.

Its tokenizer, its weights and all of its training text come from `assets/build_demo_model.py` and `assets/demo_text`: the
text is written by a seeded grammar in this repository, and no outside text or model was used. This card is written by the
same script. Licence: Apache-2.0.

| | |
|---|---|
| Parameters | {report.parameters:,}, saved in bfloat16 |
| Shape | Llama, 4 layers, hidden 256, 8 heads, 2 key-value heads, tied embeddings |
| Tokenizer | byte-level BPE, {VOCABULARY:,} tokens, chat template with a system, a user and an assistant role |
| Context | {ROW_TOKENS} tokens |
| Corpus | {report.corpus_tokens:,} tokens |
| Trained on | {report.trained_tokens:,} tokens in {report.steps:,} steps, {report.minutes:.1f} minutes on CPU |
| Final training loss | {report.final_loss:.3f} |
| Held-out perplexity | {report.perplexity:.2f} on {report.held_out_tokens:,} tokens |
| Unigram perplexity, same tokens | {report.unigram_perplexity:.0f} |

Held-out text comes from the same grammar, with combinations (question and wording; a story's hero, plot and place) that
the training text never has. It shares the vocabulary and the sentence patterns, so a low perplexity says that the
grammar was learned, and nothing about English at large.

## What it says

Greedy decoding, written down by the build:

| Prompt | Answer |
|---|---|
{talk}
"""


if __name__ == "__main__":
    main()
