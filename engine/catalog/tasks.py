"""TASKS: what kind of model a plan trains, one row each.

A row names the transformers class that loads the model, the class that prepares its inputs, PEFT's own name for the
task, and the parts that a new label set makes anew. `engine/modeling/build.py` reads the row; nothing else asks "is this an
encoder?". Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of model."""

    key: str
    label: str
    auto_class: str  # the class in `transformers` that loads it
    processor: str = "AutoTokenizer"  # the class in `transformers` that prepares its inputs
    peft_type: str | None = None  # PEFT's TaskType; None: a plain PeftModel, which passes every input on
    labels: str = "none"  # none | classes | tags | boxes | one: what the new head tells apart
    head: tuple[str, ...] = ()  # modules that are made anew for the labels, by their names: always trained and saved
    reads_images: bool = False
    generates: bool = False  # it can answer in words, so Try and the merge's proof can ask it

    @property
    def shaped_by_data(self) -> bool:
        """Whether the rows change the model or what it reads: how many classes there are, how large the images."""
        return self.labels != "none" or self.reads_images


_ROWS = (
    Task(key="causal-lm", label="Text generation", auto_class="AutoModelForCausalLM", peft_type="CAUSAL_LM", generates=True),
    Task(
        key="sequence-classification",
        label="Text classification",
        auto_class="AutoModelForSequenceClassification",
        peft_type="SEQ_CLS",
        labels="classes",
        head=("classifier", "score", "pre_classifier", "classification_head"),
    ),
    Task(
        key="regression",
        label="A number for a text",
        auto_class="AutoModelForSequenceClassification",
        peft_type="SEQ_CLS",
        labels="one",
        head=("classifier", "score", "pre_classifier", "classification_head"),
    ),
    Task(
        key="token-classification",
        label="A label for each word",
        auto_class="AutoModelForTokenClassification",
        peft_type="TOKEN_CLS",
        labels="tags",
        head=("classifier", "score"),
    ),
    Task(
        key="question-answering",
        label="Finding an answer in a text",
        auto_class="AutoModelForQuestionAnswering",
        peft_type="QUESTION_ANS",
        head=("qa_outputs",),
    ),
    Task(key="masked-lm", label="Filling gaps in a text", auto_class="AutoModelForMaskedLM"),
    Task(
        key="seq2seq",
        label="Text to text",
        auto_class="AutoModelForSeq2SeqLM",
        peft_type="SEQ_2_SEQ_LM",
    ),
    Task(key="sentence-embedding", label="A vector for a text", auto_class="AutoModel", peft_type="FEATURE_EXTRACTION"),
    Task(
        key="image-classification",
        label="A label for an image",
        auto_class="AutoModelForImageClassification",
        processor="AutoImageProcessor",
        labels="classes",
        head=("classifier",),
        reads_images=True,
    ),
    Task(
        key="object-detection",
        label="Boxes round things in an image",
        auto_class="AutoModelForObjectDetection",
        processor="AutoImageProcessor",
        labels="boxes",
        # Of DETR and YOLOS; of Conditional, Deformable and RT-DETR.
        head=("class_labels_classifier", "class_embed", "enc_score_head", "denoising_class_embed"),
        reads_images=True,
    ),
    Task(
        key="image-text-contrastive",
        label="Matching images and texts",
        auto_class="AutoModel",
        processor="AutoProcessor",
        reads_images=True,
    ),
    Task(
        key="image-text-to-text",
        label="Answers about an image",
        auto_class="AutoModelForImageTextToText",
        processor="AutoProcessor",
        reads_images=True,
    ),
)

TASKS: dict[str, Task] = {row.key: row for row in _ROWS}
