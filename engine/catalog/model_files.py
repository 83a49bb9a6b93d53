"""What is wrong with a model's files, seen when the model is chosen: names, JSON files and safetensors headers.

`check_folder(folder)` reads at most the headers, each up to a limit, and imports neither torch nor transformers. Refused,
each in one sentence that names the file:

- weights that are not safetensors: pickled ones (`.bin`, `.pt`, `.ckpt`, `.pkl`) can run code when they are opened
- code: a `.py` file, `auto_map` or `custom_pipelines` at any depth of a config, an attention kernel from the hub
- an adapter beside the weights: transformers would load it, and what it says is its base, together with them
- files that lead elsewhere: a link out of the folder, an index that names a shard with a path, FIFOs and devices
- files that no library can read, or only at a high price: not JSON, not UTF-8, nested deeply, too large
- safetensors that are cut off, empty, or whose header does not describe the bytes that follow it

`check_listing` says the same of a repository's list of files, as far as names can tell it.
"""

from __future__ import annotations

import functools
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.issues import Issue, PlanError

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
# Keys with which a config asks for code: transformers' dynamic modules, and diffusers' pipelines.
CODE_KEYS = ("auto_map", "custom_pipelines", "custom_pipeline", "custom_generate")
# The JSON files that transformers, PEFT and tokenizers read from a model's folder, beside all whose name has "config" in it.
JSON_FILES = ("special_tokens_map.json", "added_tokens.json", "chat_template.json", INDEX)
MEGABYTE = 10**6
# Sizes of files, at most: about ten times the largest known of their kind (DeepSeek-V3: an index of 9 MB; Gemma 3:
# a tokenizer_config of 1.2 MB and a tokenizer.json of 33 MB).
LARGEST_JSON = 16 * MEGABYTE
LARGEST_TEMPLATE = MEGABYTE
LARGEST_TOKENIZER = 256 * MEGABYTE
LARGEST_HEADER = 16 * MEGABYTE  # some 100,000 tensors; safetensors itself reads up to 100 MB
DEEPEST = 64  # levels of a JSON file: transformers copies configs recursively
LARGEST_NUMBER = 2**128  # above the 10**30 with which tokenizers write "no limit"
MOST_FILES = 10_000
MOST_SHARDS = 2_000
MOST_ISSUES = 5
# Bits of a number, by its name in a header (https://docs.rs/safetensors/0.6/safetensors/tensor/enum.Dtype.html).
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
FETCH_AGAIN = "Download or save the model again."
SAVE_AS_SAFETENSORS = "Save the weights as safetensors (`save_pretrained` does)."
NO_CODE = "Use a model that transformers itself has."


class BadFileError(Exception):
    """A file that is refused: what is wrong with it, as the rest of a sentence that begins with its name."""

    def __init__(self, message: str, fix: str = FETCH_AGAIN):
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file of the folder: its name in it, and what tells whether it has changed."""

    name: str
    path: Path
    bytes: int
    changed: int


# --- a folder -------------------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> list[Issue]:
    """What is wrong with the files of a model's folder; nothing, if it can be loaded. Remembered until a file changes."""
    try:
        files = tuple(_files(folder))
    except BadFileError as error:
        return [_issue(str(error), error.fix)]
    return list(_check_files(folder, tuple((file.name, file.bytes, file.changed) for file in files)))


def read_config(folder: Path) -> Mapping[str, Any]:
    """The folder's config.json. Raises `PlanError`."""
    try:
        return _read_object(_inside(folder, "config.json"), LARGEST_JSON)
    except BadFileError as error:
        raise PlanError([_issue(f"its config.json {error}", error.fix)]) from None


def refuse_code(values: Any, name: str = "") -> None:
    """Raise `PlanError` if the values of a config ask for code, at any depth."""
    try:
        _refuse_values(values)
    except BadFileError as error:
        about = f"its {name} " if name else ""
        raise PlanError([_issue(f"{about}{error}", error.fix)]) from None


def check_json(path: Path) -> list[Issue]:
    """What is wrong with one JSON file that a library is about to read."""
    try:
        _refuse_values(_read_object(path, LARGEST_JSON))
    except BadFileError as error:
        return [_issue(f"its {path.name} {error}", error.fix)]
    return []


def is_read_json(name: str) -> bool:
    """Whether transformers, PEFT or tokenizers read a JSON file of this name."""
    return name in JSON_FILES or (name.endswith(".json") and "config" in name)


@functools.lru_cache(maxsize=64)
def _check_files(folder: Path, signature: tuple[tuple[str, int, int], ...]) -> tuple[Issue, ...]:
    """`check_folder`, remembered by the names, sizes and ages of the files."""
    files = [_File(name=name, path=folder / name, bytes=size, changed=changed) for name, size, changed in signature]
    issues: list[Issue] = []
    for file in files:
        try:
            _check_file(file, folder)
        except BadFileError as error:
            issues.append(_issue(f"its {file.name} {error}", error.fix))
    if not issues:
        issues = _check_weights(folder, {file.name for file in files})
    return tuple(issues[:MOST_ISSUES])


def _files(folder: Path) -> Iterator[_File]:
    """Every file of the folder and of the folders in it; hidden ones are left out, and links are not followed into folders."""
    count = 0
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(names):
            count += 1
            if count > MOST_FILES:
                raise BadFileError(f"the folder has more than {MOST_FILES:,} files.", "Name the folder of one model.")
            path = Path(where, name)
            relative = path.relative_to(folder).as_posix()
            try:
                status = path.stat()
            except OSError:
                raise BadFileError(f"its {relative} is a link to a file that cannot be read.") from None
            if not stat.S_ISREG(status.st_mode):
                raise BadFileError(f"its {relative} is not a regular file.", "Remove it from the folder.")
            yield _File(name=relative, path=path, bytes=status.st_size, changed=status.st_mtime_ns)


def _check_file(file: _File, folder: Path) -> None:
    """One file by itself. Raises `BadFileError`."""
    _inside(folder, file.name)
    if file.name.endswith(".py"):
        raise BadFileError("is code, which is never run here.", "Remove the *.py files, or use a model without them.")
    if "/" in file.name and not file.name.endswith(".jinja"):
        return  # transformers reads no other file of a folder in the folder
    if file.name == ADAPTER:
        fix = "Merge the adapter into its base first, or name the folder of a whole model."
        raise BadFileError("belongs to an adapter, and a base model is asked for.", fix)
    if file.name.endswith(".jinja") and file.bytes > LARGEST_TEMPLATE:
        raise BadFileError(f"is {_size(file.bytes)}, and a chat template has at most {_size(LARGEST_TEMPLATE)}.")
    if is_read_json(file.name):
        _refuse_values(_read_object(file.path, LARGEST_JSON))
    elif _is_tokenizer(file.name) and file.bytes > LARGEST_TOKENIZER:
        raise BadFileError(f"is {_size(file.bytes)}, and at most {_size(LARGEST_TOKENIZER)} of it are read.")


def _is_tokenizer(name: str) -> bool:
    """Files that tokenizers read: tokenizer.json, vocab.txt, merges.txt, spiece.model and their like."""
    return name.endswith((".json", ".txt", ".model", ".tiktoken"))


def _inside(folder: Path, name: str) -> Path:
    """The file of this name, which no link leads out of the folder. Raises `BadFileError`.

    The hub's cache is links from `snapshots/REVISION` to `blobs` beside it: those are inside.
    """
    path, inner = folder / name, folder.resolve()
    found = path.resolve()
    in_cache = inner.parent.name == "snapshots" and found.parent == inner.parents[1] / "blobs"
    if not found.is_relative_to(inner) and not in_cache:
        raise BadFileError("is a link that leads out of the folder.", "Put the file itself into the folder.")
    return found


# --- JSON files -----------------------------------------------------------------------------------------------------


def _read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes: a FIFO is not waited for. Raises `BadFileError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise BadFileError(f"cannot be read ({error.strerror}).") from None
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadFileError("is not a regular file.", "Remove it from the folder.")
        if status.st_size > limit:
            raise BadFileError(f"is {_size(status.st_size)}, and at most {_size(limit)} of it are read.")
        return stream.read(limit)


def _read_object(path: Path, limit: int) -> Mapping[str, Any]:
    """A JSON file that holds an object. Raises `BadFileError`."""
    return _parse_object(_read_bytes(path, limit))


def _parse_object(content: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadFileError("is not a text in UTF-8.") from None
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
        raise BadFileError("is not valid JSON.") from None
    if not isinstance(values, dict):
        raise BadFileError("is not a JSON object.")
    return values


def _refuse_values(values: Any) -> None:
    """Refuse code, deep nesting and absurd numbers anywhere in JSON values. Raises `BadFileError`."""
    waiting: list[tuple[Any, int]] = [(values, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise BadFileError(f"is nested more than {DEEPEST} levels deep.")
        if isinstance(value, Mapping):
            for key, inner in value.items():
                _refuse_key(str(key), inner)
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
            raise BadFileError("has a number of more than 128 bits.")


def _refuse_key(key: str, value: Any) -> None:
    if key in CODE_KEYS and value:
        raise BadFileError(f"needs code of its own ({key}), which is never run here.", NO_CODE)
    if key == "trust_remote_code" and value is True:
        raise BadFileError("asks to trust code from the hub (trust_remote_code), which is never run here.", NO_CODE)
    # "kernels-community/flash-attn" has transformers fetch compiled code from the hub.
    from_hub = isinstance(value, str) and "/" in value
    if key.strip("_").removesuffix("_internal").endswith(("attn_implementation", "experts_implementation")) and from_hub:
        raise BadFileError(f"asks for a kernel from the hub ({key}), which is never run here.", "Remove that line.")
    if key == "transformers_weights" and value is not None and not _is_plain_name(value):
        raise BadFileError("names weights outside of the folder (transformers_weights).", "Remove that line.")


# --- weights --------------------------------------------------------------------------------------------------------


def _check_weights(folder: Path, names: set[str]) -> list[Issue]:
    """What is wrong with the safetensors that transformers would load from the folder."""
    own = read_config(folder).get("transformers_weights") if "config.json" in names else None
    start = str(own) if own else WEIGHTS if WEIGHTS in names else INDEX
    if start not in names:
        return [_no_safetensors(names)]
    if not start.endswith(".index.json"):
        return [issue for issue in [_check_shard(folder, start)[0]] if issue]
    try:
        tensors_of = _read_index(folder / start)
    except BadFileError as error:
        return [_issue(f"its {start} {error}", error.fix)]
    missing = [shard for shard in tensors_of if shard not in names]
    if missing:
        return [_issue(f"its {start} names {missing[0]}, and there is no such file in the folder.", FETCH_AGAIN)]
    issues: list[Issue] = []
    for shard, wanted in tensors_of.items():
        issue, stored = _check_shard(folder, shard)
        absent = sorted(wanted - stored)
        if issue is None and absent:
            issue = _issue(f"its {start} says that {shard} has {absent[0][:100]}, and it has not.", FETCH_AGAIN)
        issues += [issue] if issue else []
    return issues


def _no_safetensors(names: Iterable[str]) -> Issue:
    """What to say of a folder or repository without safetensors, by the names of its files."""
    pickled = sorted(name for name in names if name.endswith(PICKLED) and "/" not in name)
    if pickled:
        return _issue(
            f"has no *.safetensors file, only {pickled[0]}, which can run code when it is opened.", SAVE_AS_SAFETENSORS
        )
    return _issue(f"has no *.safetensors file named {WEIGHTS}, and no {INDEX}.", SAVE_AS_SAFETENSORS)


def _is_plain_name(value: Any) -> bool:
    """Whether a value is the name of a safetensors file in the same folder."""
    plain = isinstance(value, str) and "/" not in value and "\\" not in value and "\0" not in value
    return plain and value.endswith((".safetensors", ".safetensors.index.json"))


def _read_index(path: Path) -> dict[str, set[str]]:
    """Shard -> the tensors that the index expects in it. Raises `BadFileError`."""
    placed = _read_object(path, LARGEST_JSON).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise BadFileError("has no weight_map that says which tensor is in which file.")
    tensors_of: dict[str, set[str]] = {}
    for tensor, shard in placed.items():
        if not _is_plain_name(shard):
            fix = "Use an index that names safetensors files in its own folder."
            raise BadFileError(f"names {str(shard)[:100]!r}, which is no safetensors file in the folder.", fix)
        tensors_of.setdefault(shard, set()).add(tensor)
    if len(tensors_of) > MOST_SHARDS:
        raise BadFileError(f"names more than {MOST_SHARDS:,} files.")
    return tensors_of


def _check_shard(folder: Path, name: str) -> tuple[Issue | None, set[str]]:
    """(what is wrong with a safetensors file, the tensors that it holds)."""
    try:
        return None, _read_header(folder / name)
    except BadFileError as error:
        return _issue(f"its {name} {error}", error.fix), set()


def _read_header(path: Path) -> set[str]:
    """The names of the tensors in a safetensors file, whose header describes all of its bytes. Raises `BadFileError`.

    The format: 8 bytes with the length of the header, the header as JSON, then the tensors without gaps
    (https://huggingface.co/docs/safetensors/index#format).
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise BadFileError(f"is cut off or is no safetensors file: it has {size:,} bytes, fewer than its header.")
        if length > LARGEST_HEADER:
            raise BadFileError(f"has a header of {_size(length)}, and at most {_size(LARGEST_HEADER)} of it are read.")
        header = dict(_parse_object(stream.read(length)))
    header.pop("__metadata__", None)
    end = 0
    for name, start, stop in sorted((_extent(name, entry) for name, entry in header.items()), key=lambda one: one[1:]):
        if start != end:
            raise BadFileError(f"has a header in which {name[:100]} does not begin where the tensor before it ends.")
        end = stop
    if end != size - 8 - length:
        raise BadFileError(f"is cut off: its header describes {end:,} bytes of tensors, and {size - 8 - length:,} are there.")
    return set(header)


def _extent(name: str, entry: Any) -> tuple[str, int, int]:
    """(tensor, its first byte, the byte behind its last one). Raises `BadFileError`."""
    bad = BadFileError(f"has a header that describes {name[:100]} wrongly.")
    if not isinstance(entry, dict):
        raise bad
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise bad
    if dtype not in BITS:
        raise BadFileError(f"stores {name[:100]} as {str(dtype)[:20]!r}, which is no dtype of safetensors.")
    bits = BITS[dtype]
    for side in shape:
        bits *= side
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise bad
    return name, offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    counts = isinstance(values, list) and len(values) <= DEEPEST
    return counts and all(type(value) is int and 0 <= value < 2**63 for value in values)


# --- a repository of the hub ----------------------------------------------------------------------------------------


def check_listing(names: Iterable[str]) -> list[Issue]:
    """What the names of a repository's files tell: pickled weights are refused before anything is fetched.

    A repository without any weights can be planned with. What the hub's own scan for pickles says changes nothing.
    """
    found = set(names)
    if WEIGHTS in found or INDEX in found:
        return []
    return [_no_safetensors(found)] if any(name.endswith(PICKLED) and "/" not in name for name in found) else []


def _size(count: int) -> str:
    return f"{count / 10**9:,.1f} GB" if count >= 10**9 else f"{count / 10**6:,.1f} MB"


def _issue(message: str, fix: str) -> Issue:
    return Issue(field="model", message=message, fix=fix)
