"""Build the tiny models of the other families: an encoder, T5, ViT, ResNet, YOLOS, CLIP, a vision-language model, a
student for distillation and a reward model.

    python assets/build_demo_models.py                 # writes assets/demo_models/<name> (about 10 minutes on 1 core)
    python assets/build_demo_models.py encoder vit     # only these

Everything comes from a seed and from `demo_text`. The encoder has read the demo corpus by filling gaps, and the models that
look at drawings, CLIP aside, have learned to tell some apart, so that there is something to build on. The others
have the weights that their configs draw: they are small enough to be trained whole in a minute.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from demo_text import shapes
from demo_text.corpus import write_documents
from demo_text.questions import all_items, prompts_of
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessorPil,
)

HERE = Path(__file__).parent
SEED = 0
MASKED_SHARE = 0.15
YOLOS_STEPS = 3_000
VLM_STEPS = 4_000
CHAT = (
    "{%- for message in messages -%}<|{{ message['role'] }}|>"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{%- endfor -%}{%- endif -%}<|end|>"
    "{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def tokenizer(*more: str, **special: str) -> PreTrainedTokenizerFast:
    """The demo model's words, and some special ones."""
    made = PreTrainedTokenizerFast.from_pretrained(HERE / "demo_model")
    made.chat_template = None
    made.add_special_tokens(special)
    made.add_tokens(list(more), special_tokens=True)
    return made


def encoder(out: Path) -> None:
    """A BERT that has read the demo corpus."""
    words = tokenizer(cls_token="<cls>", sep_token="<sep>", mask_token="<mask>")
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<cls> $A <sep>",
        pair="<cls> $A <sep> $B:1 <sep>:1",
        special_tokens=[("<cls>", words.cls_token_id), ("<sep>", words.sep_token_id)],
    )
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(words), hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=384,
            max_position_embeddings=256, pad_token_id=words.pad_token_id,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3)
    texts = sentences()
    rng = torch.Generator().manual_seed(SEED)
    for step in range(1_500):
        batch = words([next(texts) for _ in range(32)], padding=True, truncation=True, max_length=48, return_tensors="pt")
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 50) * (1 - step / 1_500)
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        special = (ids == words.cls_token_id) | (ids == words.sep_token_id) | ~mask
        hidden = (torch.rand(ids.shape, generator=rng) < MASKED_SHARE) & ~special
        labels = ids.masked_fill(~hidden, -100)
        loss = model(input_ids=ids.masked_fill(hidden, words.mask_token_id), attention_mask=mask, labels=labels).loss
        _step(model, optimizer, loss)
        if step % 250 == 0:
            print(f"encoder step {step} loss {loss.item():.3f}", flush=True)
    save(out, model.to(torch.bfloat16), words)


def sentences() -> Iterator[str]:
    """Turns and stories of the demo corpus, without end; two of three stand alone, the third follows its question."""
    rng = random.Random(SEED)
    while True:
        for document in write_documents(20_000, seed=rng.randrange(2**31), held_out=False):
            if isinstance(document, str):
                yield document
            else:
                yield " ".join(message["content"] for message in document[-2:] if message["role"] != "system")


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def seq2seq(out: Path) -> None:
    """A T5 as its config draws it."""
    words = tokenizer()
    config = T5Config(
        vocab_size=len(words), d_model=96, d_kv=24, d_ff=256, num_layers=2, num_decoder_layers=2, num_heads=4,
        decoder_start_token_id=words.pad_token_id, pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id,
        dropout_rate=0.0, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    save(out, T5ForConditionalGeneration(config), words)


def vit(out: Path) -> None:
    """A ViT that tells shapes, colours and sides: attention needs to have seen shapes before it can learn them from few."""
    config = ViTConfig(
        image_size=shapes.SIDE, patch_size=4, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192,
        num_labels=len(_all_kinds()), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    size = {"height": shapes.SIDE, "width": shapes.SIDE}
    _learn_pictures(out, ViTForImageClassification(config), ViTImageProcessorPil(size=size), 900, with_shape=True)


def resnet(out: Path) -> None:
    """A ResNet that tells colours and sides."""
    config = ResNetConfig(
        num_channels=3, embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic",
        num_labels=len(_kinds()),
    )  # fmt: skip
    size = {"height": shapes.SIDE, "width": shapes.SIDE}
    _learn_pictures(out, ResNetForImageClassification(config), ViTImageProcessorPil(size=size), 150)


def _kinds() -> list[tuple[str, str]]:
    return [(colour, place) for colour in shapes.COLOURS for place in shapes.PLACES]


def _all_kinds() -> list[tuple[str, str, str]]:
    return [(shape, *kind) for shape in shapes.SHAPES for kind in _kinds()]


def _learn_pictures(
    out: Path, model: torch.nn.Module, processor: ViTImageProcessorPil, steps: int, *, with_shape: bool = False
) -> None:
    """Pictures of other spots and inks than the demo set's, labelled by colour and side, and by shape if asked for."""
    drawn = shapes.drawings(2_000, "before")
    pixels = processor(images=[picture(drawing) for drawing in drawn], return_tensors="pt")["pixel_values"]
    of_colour = [_kinds().index((drawing.colour, drawing.place)) for drawing in drawn]
    of_all = [_all_kinds().index((drawing.shape, drawing.colour, drawing.place)) for drawing in drawn]
    labels = torch.tensor(of_all if with_shape else of_colour)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        chosen = torch.randint(len(drawn), (32,))
        loss = model(pixel_values=pixels[chosen], labels=labels[chosen]).loss
        _step(model, optimizer, loss)
        if step % 50 == 0:
            print(f"{out.name} step {step} loss {loss.item():.3f}", flush=True)
    save(out, model, processor)


def yolos(out: Path) -> None:
    """A YOLOS that has found shapes of every colour on other pictures than the demo set's.

    Each of its detection tokens was shown one quarter of the picture: matching them to things from scratch, as DETR's
    loss does it, takes many times as long.
    """
    kinds = [(shape, colour) for shape in shapes.SHAPES for colour in shapes.COLOURS]
    config = YolosConfig(
        image_size=[shapes.SCENE, shapes.SCENE], patch_size=8, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=192, num_detection_tokens=4, num_labels=len(kinds), use_mid_position_embeddings=False,
    )  # fmt: skip
    model = YolosForObjectDetection(config)
    processor = YolosImageProcessorPil(size={"height": shapes.SCENE, "width": shapes.SCENE})
    drawn = shapes.scenes(4_000, "before")
    pixels = processor(images=[picture(scene) for scene in drawn], return_tensors="pt")["pixel_values"]
    names, boxes = torch.full((len(drawn), 4), len(kinds)), torch.zeros(len(drawn), 4, 4)
    for number, scene in enumerate(drawn):
        for thing in scene.things:
            left, top, width, height = (part / shapes.SCENE for part in thing.box)
            middle = (left + width / 2, top + height / 2)
            quarter = int(middle[0] > 0.5) + 2 * int(middle[1] > 0.5)
            names[number, quarter] = kinds.index((thing.shape, thing.colour))
            boxes[number, quarter] = torch.tensor([*middle, width, height])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(YOLOS_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (1 - step / YOLOS_STEPS)
        chosen = torch.randint(len(drawn), (32,))
        outputs = model(pixel_values=pixels[chosen])
        there = names[chosen] < len(kinds)
        apart = torch.nn.functional.l1_loss(outputs.pred_boxes[there], boxes[chosen][there])
        loss = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), names[chosen].flatten()) + 10 * apart
        _step(model, optimizer, loss)
        if step % 250 == 0:
            print(f"yolos step {step} loss {loss.item():.3f} boxes {apart.item():.4f}", flush=True)
    save(out, model.to(torch.bfloat16), processor)


def picture(drawing: shapes.Drawing | shapes.Scene) -> Image.Image:
    """The drawing, opened."""
    import io

    return Image.open(io.BytesIO(drawing.png)).convert("RGB")


_EYE = {
    "image_size": shapes.SIDE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def _clip_images() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": shapes.SIDE}, crop_size={"height": shapes.SIDE, "width": shapes.SIDE})


def clip(out: Path) -> None:
    """A CLIP as its config draws it."""
    words = tokenizer()
    text = {
        "vocab_size": len(words), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 32, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
        "bos_token_id": words.eos_token_id,
    }  # fmt: skip
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", words.eos_token_id)]
    )
    words.model_max_length = 32
    config = CLIPConfig(text_config=text, vision_config=_EYE | {"patch_size": 8}, projection_dim=64)
    save(out, CLIPModel(config), CLIPProcessor(image_processor=_clip_images(), tokenizer=words))


def vlm(out: Path) -> None:
    """A Llava, a CLIP eye and a small Llama, that has told side, colour and shape of other drawings in bare words.

    So it sees, and what is left to learn in a minute is how to say it.
    """
    words = tokenizer("<image>")
    text = {
        "model_type": "llama", "vocab_size": len(words), "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 256,
        "bos_token_id": None, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip
    config = LlavaConfig(
        text_config=text, vision_config={"model_type": "clip_vision_model", **_EYE, "patch_size": 8},
        image_token_id=words.convert_tokens_to_ids("<image>"), vision_feature_select_strategy="default",
        vision_feature_layer=-1, image_seq_length=(shapes.SIDE // 8) ** 2, tie_word_embeddings=True,
    )  # fmt: skip
    processor = LlavaProcessor(
        image_processor=_clip_images(), tokenizer=words, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    drawn = shapes.drawings(16_000, "before")
    pixels = processor.image_processor(images=[picture(one) for one in drawn], return_tensors="pt")["pixel_values"]
    prompts, told = zip(*(_asked_and_told(one, number) for number, one in enumerate(drawn)), strict=True)
    chats = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}] for prompt in prompts]
    begun = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    begun = [text.replace("<image>", "<image>" * config.image_seq_length) for text in begun]
    starts = torch.tensor([len(ids) for ids in words(begun)["input_ids"]]).unsqueeze(1)
    whole = [f"{text}{answer}<|end|>" for text, answer in zip(begun, told, strict=True)]
    batch = words(whole, padding=True, padding_side="right", return_tensors="pt")
    words.backend_tokenizer.no_padding()  # it would be saved
    ids, mask = batch["input_ids"], batch["attention_mask"]
    labels = ids.masked_fill((mask == 0) | (torch.arange(ids.size(1)).unsqueeze(0) < starts), -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(VLM_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50) * (1 - step / VLM_STEPS)
        chosen = torch.randint(len(drawn), (32,))
        parts = {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}
        loss = model(**{name: part[chosen] for name, part in parts.items()}).loss
        _step(model, optimizer, loss)
        if step % 250 == 0:
            print(f"vlm step {step} loss {loss.item():.3f}", flush=True)
    save(out, model, processor)


def _asked_and_told(drawing: shapes.Drawing, number: int) -> tuple[str, str]:
    """One request of four in turn, and the words that answer it."""
    kinds = {"Side, please.": drawing.place, "Colour, please.": drawing.colour, "Shape, please.": drawing.shape}
    return [("What is on it?", " ".join(kinds.values())), *kinds.items()][number // 40 % 4]


def student(out: Path) -> None:
    """A Llama a tenth as large as the demo model, as its config draws it."""
    words = PreTrainedTokenizerFast.from_pretrained(HERE / "demo_model")
    save(out, LlamaForCausalLM(_small_llama(words)).to(torch.bfloat16), words)


def _small_llama(words: PreTrainedTokenizerFast, **more: object) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(words), hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=512, bos_token_id=None,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, **more,
    )  # fmt: skip


def reward(out: Path) -> None:
    """A reward model that likes the fuller of two right answers."""
    words = PreTrainedTokenizerFast.from_pretrained(HERE / "demo_model")
    model = LlamaForSequenceClassification(_small_llama(words, num_labels=1, problem_type="regression"))
    rng = random.Random(SEED)
    pairs = []
    for item in all_items():
        short, full = min(item.answers, key=len), max(item.answers, key=len)
        if len(full) > len(short) + 8:
            asked = [{"role": "user", "content": rng.choice(prompts_of(item))}]
            pairs.append([[*asked, {"role": "assistant", "content": text}] for text in (full, short)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(100):
        chosen = random.Random(step).sample(pairs, 16)
        chats = [pair[side] for side in (0, 1) for pair in chosen]
        batch = words([words.apply_chat_template(chat, tokenize=False) for chat in chats], padding=True, return_tensors="pt")
        better, worse = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1).chunk(2)
        loss = -torch.nn.functional.logsigmoid(better - worse).mean() + 0.01 * ((better + worse) ** 2).mean()
        _step(model, optimizer, loss)
    print(f"reward loss {loss.item():.3f}", flush=True)
    save(out, model.to(torch.bfloat16), words)


def save(out: Path, model: torch.nn.Module, processor: object) -> None:
    """A plain Hugging Face folder."""
    model.save_pretrained(out)
    processor.save_pretrained(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out.name}: {model.num_parameters():,} parameters, {size:,} bytes", flush=True)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "encoder": encoder, "seq2seq": seq2seq, "vit": vit, "resnet": resnet, "yolos": yolos, "clip": clip,
    "vlm": vlm, "student": student, "reward": reward,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], default=[], metavar="FAMILY")
    parser.add_argument("--out", type=Path, default=HERE / "demo_models")
    args = parser.parse_args()
    for name in args.families or FAMILIES:
        torch.manual_seed(SEED)
        FAMILIES[name](args.out / name)


if __name__ == "__main__":
    main()
