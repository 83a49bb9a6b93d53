"""Base and tuned, side by side: the process that answers prompts with a run's model.

    python -m engine.inference.worker RUN_FOLDER

Reads one request per line, {"prompt", "max_new_tokens", "temperature"}, with the path of an "image" where the model looks
at one, and writes growing answers as lines {"base", "tuned", "done"}; a detector's have its boxes beside. Both models
get the same prompt, through the chat template where there is one; models that do not chat say their verdict of it
(`engine/inference/predict.py`). With an adapter one model serves both (the adapter is switched off for the base); after full
fine-tuning there are two.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.adapters import attach
from engine.catalog.tasks import TASKS, Task
from engine.issues import Issue, PlanError
from engine.jobs import runs
from engine.modeling import build, libraries
from engine.objectives import task_of
from engine.system import redaction
from engine.system.errors import in_plain_words
from engine.system.json_process import asked_by

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Pair:
    """The base and the tuned model of a run."""

    def __init__(self, run_folder: Path):
        plan = runs.plan_of(run_folder)
        device = build.device_here()
        self.task = task_of(plan)
        self.tokenizer: PreTrainedTokenizerBase = build.load_processor(plan)
        self.base: PreTrainedModel = build.load_base(plan, device).eval()
        self.has_adapter = (run_folder / "adapter").is_dir()
        self.tuned = self._with_adapter(run_folder) if self.has_adapter else load_whole(run_folder / "model", device, self.task)

    def _with_adapter(self, run_folder: Path) -> PreTrainedModel:
        return attach.load(self.base, run_folder / "adapter").eval()

    def as_base(self) -> AbstractContextManager[Any]:
        """Within it, `tuned` answers as the base does (when there is an adapter)."""
        return self.tuned.disable_adapter() if self.has_adapter else contextlib.nullcontext()


def load_whole(folder: Path, device: str, task: Task = TASKS["causal-lm"]) -> PreTrainedModel:
    """A whole model from a folder that this program wrote."""
    import transformers

    return (
        getattr(transformers, task.auto_class)
        .from_pretrained(folder, dtype="auto", device_map={"": device}, use_safetensors=True, trust_remote_code=False)
        .eval()
    )


def render(tokenizer: PreTrainedTokenizerBase, prompt: str) -> dict[str, Any]:
    """The prompt as the model reads it: through the chat template where there is one. Tensors of shape [1, tokens]."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        return dict(tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True))
    return dict(tokenizer(prompt, return_tensors="pt"))


def stream(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, request: Mapping[str, Any]
) -> Iterator[str]:
    """The answer as it grows. Greedy at temperature 0."""
    from transformers import TextIteratorStreamer

    temperature = float(request.get("temperature", 0.0))
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=300)
    inputs = {name: tensor.to(model.device) for name, tensor in render(tokenizer, prompt).items()}
    settings = {**inputs, **sampling, "max_new_tokens": int(request.get("max_new_tokens", 64)), "streamer": streamer}
    text = ""
    with ThreadPoolExecutor(max_workers=1) as executor:
        generating = executor.submit(model.generate, **settings)
        generating.add_done_callback(lambda _: streamer.end())  # a generation that fails ends the stream, too
        for piece in streamer:
            text += piece
            yield text
        generating.result()


def reply_to(pair: Pair, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Growing answers of the base, then of the tuned model."""
    prompt = str(request["prompt"])
    if not pair.task.generates:
        yield from verdicts_of(pair, prompt, request.get("image"))
        return
    base = tuned = ""
    with pair.as_base():
        for base in stream(pair.tuned if pair.has_adapter else pair.base, pair.tokenizer, prompt, request):
            yield {"base": base, "tuned": "", "done": False}
    for tuned in stream(pair.tuned, pair.tokenizer, prompt, request):
        yield {"base": base, "tuned": tuned, "done": False}
    yield {"base": base, "tuned": tuned, "done": True}


def verdicts_of(pair: Pair, prompt: str, image: str | None = None) -> Iterator[dict[str, Any]]:
    """What base and tuned model say of the prompt or the image, where neither of them chats."""
    shown = opened(image) if image else None
    with pair.as_base():
        base = _verdict(pair, pair.tuned if pair.has_adapter else pair.base, prompt, shown)
    reply = {"base": base["said"], "base_boxes": base["boxes"], "tuned": "", "tuned_boxes": []}
    yield {**reply, "done": False}
    tuned = _verdict(pair, pair.tuned, prompt, shown)
    yield {**reply, "tuned": tuned["said"], "tuned_boxes": tuned["boxes"], "done": True}


def _verdict(pair: Pair, model: Any, prompt: str, image: Any) -> dict[str, Any]:
    from engine.inference import predict

    said = predict.of(pair.task, model, pair.tokenizer, prompt, image)
    boxes = predict.boxes_on(model, pair.tokenizer, image) if pair.task.labels == "boxes" else ()
    return {"said": said, "boxes": [vars(box) for box in boxes]}


def opened(image: str) -> Any:
    """The image of a file. Raises `PlanError` for what is none."""
    from engine.data.pictures import open_image
    from engine.data.values import BadRow

    try:
        return open_image(image)
    except BadRow as error:
        message = f"{error}.".removeprefix("has an image that ")  # as a row would have it
        raise PlanError([Issue(field="image", message=message, fix="Choose a PNG or JPEG file.")]) from None


def say(reply: Mapping[str, Any]) -> None:
    print(json.dumps(reply), flush=True)


def main(run_folder: Path) -> int:
    """Answer requests until the input ends."""
    redaction.redact_output()
    pair: Pair | None = None
    for line in sys.stdin:
        try:
            with in_plain_words():
                libraries.load()
                request = json.loads(line)
                with asked_by(request):
                    pair = pair or Pair(run_folder)
                    for reply in reply_to(pair, request):
                        say(reply)
        except PlanError as error:
            say({"issues": [vars(issue) for issue in error.issues], "done": True})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
