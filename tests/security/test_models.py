"""A model of a stranger runs no code and opens nothing else: what is wrong with its files is said when it is chosen.

Only safetensors are loaded, whichever option or field names the model (T1), no code that comes with a model is run (T4),
what is typed as a model opens no connection (T11), and headers, indexes and configs are read up to a limit (T31). A hub
that calls pickled weights clean changes nothing (T32).
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from engine import checks, train
from engine.catalog import hub_lookups, model_files, models
from engine.data.demos import first_plan
from engine.inference import several_adapters
from engine.issues import PlanError
from engine.jobs import runs
from engine.modeling import build, libraries
from engine.objectives import OBJECTIVES
from engine.plan import Plan
from engine.system.home import ASSETS
from estimators import __main__ as estimators

DEMO = ASSETS / "demo_model"
LIMIT_SECONDS = 2.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that is in order: the demo model's files."""
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def refusal(words: Any) -> str:
    """The one sentence with which a model is refused, by what people see: the checks of a plan."""
    issues = [issue for issue in checks.check(Plan(model=words)) if issue.severity == "error"]
    assert issues, f"{words!r:.200} was not refused"
    assert all(issue.field.partition(".")[0] == "model" and issue.fix for issue in issues)
    assert not any("unexpected" in issue.message or "\n" in issue.message or len(issue.message) > 400 for issue in issues)
    return issues[0].message


def test_a_folder_in_order_is_taken(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"beside safetensors nobody opens it")
    assert [issue for issue in checks.check(Plan(model=str(folder))) if issue.severity == "error"] == []


# --- code -----------------------------------------------------------------------------------------------------------

AUTO_MAP = {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None], "AutoConfig": "somebody/evil--evil.Evil"}
CODE: dict[str, dict[str, Any]] = {
    "in the config": {"auto_map": AUTO_MAP},
    "in a sub-config": {"text_config": {"model_type": "llama", "auto_map": AUTO_MAP}},
    "in a list of a sub-config": {"vision_config": {"parts": [{"auto_map": AUTO_MAP}]}},
    "as a pipeline": {"custom_pipelines": {"x": {"impl": "evil.Evil"}}},
    "as a way to generate": {"custom_generate": "somebody/evil"},
    "by a switch": {"trust_remote_code": True},
    "as an attention kernel": {"attn_implementation": "somebody/kernel"},
    "as a hidden attention kernel": {"text_config": {"_attn_implementation_internal": "somebody/kernel"}},
}
READ_BY_LIBRARIES = (
    "config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "special_tokens_map.json", "chat_template.json",
)  # fmt: skip


def add_to(file: Path, values: dict[str, Any]) -> None:
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | values))


@pytest.mark.parametrize("asked", CODE, ids=str)
@pytest.mark.parametrize("name", READ_BY_LIBRARIES)
def test_code_is_refused_wherever_a_file_asks_for_it(name: str, asked: str, folder: Path) -> None:
    add_to(folder / name, CODE[asked])
    said = refusal(str(folder))
    assert name in said
    assert "never run here" in said


@pytest.mark.parametrize("asked", CODE, ids=str)
def test_code_is_refused_in_a_pasted_config(asked: str) -> None:
    config = {"model_type": "llama", "hidden_size": 64} | CODE[asked]
    assert "never run here" in refusal(config)
    assert "never run here" in refusal(json.dumps(config))


@pytest.mark.parametrize("name", ["modeling_evil.py", "custom_generate/generate.py", "a/b/c.py"])
def test_code_in_a_snapshot_is_refused(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("raise SystemExit")
    assert name in refusal(str(folder))


# --- weights --------------------------------------------------------------------------------------------------------


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.file,)


PICKLES = ("pytorch_model.bin", "adapter_model.bin", "value_head.bin", "model.pt", "model.ckpt", "model.pkl", "weights.pth")


@pytest.mark.parametrize("name", PICKLES)
def test_pickled_weights_are_refused_by_name_and_not_opened(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    assert name in refusal(str(folder))
    for load in (build.load_base, build.build):
        with pytest.raises(PlanError):
            load(Plan(model=str(folder), gpu="this machine"), "cpu")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_beside_the_weights_are_never_opened(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    build.load_base(Plan(model=str(folder), precision="fp32"), "cpu")
    assert not (tmp_path / "canary").exists()


MODEL_OPTIONS = sorted(
    {
        (objective.key, option.name)
        for objective in OBJECTIVES.values()
        for option in objective.options
        if option.name in ("teacher", "reward_model", "reference", "ref_model")
    }
)


@pytest.mark.parametrize(("objective", "option"), MODEL_OPTIONS)
def test_each_option_that_names_a_model_is_looked_at_alike(objective: str, option: str, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    issues = checks.check(Plan(objective=objective, objective_options={option: str(folder)}))
    assert any(issue.field == option and "pytorch_model.bin" in issue.message for issue in issues)
    assert not (tmp_path / "canary").exists()


def test_there_are_options_that_name_a_model() -> None:
    assert {option for _, option in MODEL_OPTIONS} >= {"teacher", "reward_model"}


def test_an_adapter_beside_the_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """Transformers would load it together with the weights."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y"}))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    assert "adapter_config.json" in refusal(str(folder))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("words", ["../model", "/etc", "adapter_model.bin", ".."])
def test_adapters_are_named_by_their_runs_and_no_run_is_a_path(words: str) -> None:
    chosen = [run for run in [runs.get(words)] if run is not None]
    with pytest.raises(PlanError):
        several_adapters.check(chosen)


def header(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def entry(start: int, stop: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop]} | changes


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "three bytes": b"abc",
    "zeros": bytes(64),
    "garbage": bytes(range(256)) * 8,
    "a header of 8 EB": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "a header of 16 EB": (2**64 - 1).to_bytes(8, "little") + b"{}",
    "a header that is no JSON": (16).to_bytes(8, "little") + b"not json at all.",
    "a header that is a list": (2).to_bytes(8, "little") + b"[]",
    "a header of deep JSON": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "a pickle": pickle.dumps({"weight": 1}),
    "cut off": header({"a": entry(0, 64)}) + bytes(63),
    "too long": header({"a": entry(0, 64)}) + bytes(65),
    "overlapping": header({"a": entry(0, 64), "b": entry(32, 96)}) + bytes(96),
    "with a gap": header({"a": entry(0, 32), "b": entry(64, 96)}) + bytes(96),
    "offsets the wrong way round": header({"a": entry(64, 0)}) + bytes(64),
    "negative offsets": header({"a": entry(-64, 0)}) + bytes(64),
    "offsets that are texts": header({"a": entry(0, 64, data_offsets=["0", "64"])}) + bytes(64),
    "a shape that does not fit": header({"a": entry(0, 64, shape=[3])}) + bytes(64),
    "an absurd shape": header({"a": entry(0, 64, shape=[2**62] * 60)}) + bytes(64),
    "an unknown dtype": header({"a": entry(0, 64, dtype="PICKLE")}) + bytes(64),
    "a tensor that is a text": header({"a": "tensor"}),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED, ids=str)
def test_damaged_weights_are_refused_when_the_folder_is_chosen(damage: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(DAMAGED[damage])
    assert "model.safetensors" in refusal(str(folder))


@pytest.mark.parametrize("megabytes", [17, 120])
def test_a_huge_header_is_not_read(megabytes: int, folder: Path) -> None:
    with open(folder / "model.safetensors", "wb") as file:
        file.write((megabytes * 10**6).to_bytes(8, "little"))
        file.truncate(2 * megabytes * 10**6)
    tracemalloc.start()
    assert "header" in refusal(str(folder))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def sharded(folder: Path, shard: str, *, tensors: tuple[str, ...] = ("a", "b")) -> None:
    """The folder with an index that places two tensors; they are in the file `model-1.safetensors`."""
    (folder / "model.safetensors").unlink()
    (folder / "model-1.safetensors").write_bytes(header({"a": entry(0, 64), "b": entry(64, 128)}) + bytes(128))
    index = {"metadata": {"total_size": 128}, "weight_map": dict.fromkeys(tensors, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_of_its_own_folder_is_taken(folder: Path) -> None:
    sharded(folder, "model-1.safetensors")
    assert model_files.check_folder(folder) == []


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors", "/etc/secret.safetensors", "a/../../secret.safetensors", "sub/secret.safetensors",
        "..\\secret.safetensors", "model-1.bin", "missing.safetensors", "", None, 3, ["model-1.safetensors"], "a\0.safetensors",
    ],
)  # fmt: skip
def test_an_index_names_only_safetensors_of_its_own_folder(shard: Any, folder: Path) -> None:
    for place in (folder.parent, folder / "sub"):
        place.mkdir(exist_ok=True)
        (place / "secret.safetensors").write_bytes(header({"a": entry(0, 64), "b": entry(64, 128)}) + bytes(128))
    sharded(folder, shard)
    assert "model.safetensors.index.json" in refusal(str(folder))


def test_an_index_names_only_tensors_that_are_there(folder: Path) -> None:
    sharded(folder, "model-1.safetensors", tensors=("a", "b", "absent"))
    assert "absent" in refusal(str(folder))


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "no json", '{"weight_map": "x"}'])
def test_an_index_without_a_map_is_refused(index: str, folder: Path) -> None:
    sharded(folder, "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refusal(str(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
@pytest.mark.parametrize("target", ["secret", "/dev/zero", "/proc/self/environ", "nowhere"])
def test_no_link_leads_out_of_the_folder(name: str, target: str, folder: Path) -> None:
    if target == "secret":
        shutil.copy(folder / name, folder.parent / "secret")
    (folder / name).unlink()
    (folder / name).symlink_to(folder.parent / target)
    assert name in refusal(str(folder)) or "no config.json" in refusal(str(folder))


def test_the_links_of_the_hubs_own_cache_are_inside(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert model_files.check_folder(snapshot) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors", "chat_template.jinja", "extra"])
def test_a_fifo_is_not_waited_for(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    began = time.monotonic()
    assert name in refusal(str(folder))
    assert time.monotonic() - began < LIMIT_SECONDS


# --- JSON files -----------------------------------------------------------------------------------------------------

BAD_JSON: dict[str, bytes] = {
    "no JSON": b"{",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "a list": b"[]",
    "a text": b'"x"',
    "deep": b'{"a":' * 100_000,
    "deep and closed": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "rather deep": b'{"a":' + b"[" * 200 + b"]" * 200 + b"}",
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "a number of 400 digits": b'{"a": ' + b"9" * 400 + b"}",
    "empty": b"",
}


@pytest.mark.parametrize("content", BAD_JSON, ids=str)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_config_that_cannot_be_read_is_refused_by_name(name: str, content: str, folder: Path) -> None:
    (folder / name).write_bytes(BAD_JSON[content])
    assert name in refusal(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt", "chat_template.jinja"])
def test_a_file_of_a_gigabyte_is_not_read(name: str, folder: Path) -> None:
    with open(folder / name, "ab") as file:
        file.truncate(10**9)
    tracemalloc.start()
    assert name in refusal(str(folder))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_folder_of_very_many_files_is_not_gone_through(folder: Path) -> None:
    for number in range(model_files.MOST_FILES + 1):
        (folder / f"{number}").touch()
    assert "more than" in refusal(str(folder))


# --- what is typed ---------------------------------------------------------------------------------------------------

NO_MODELS = (
    "http://169.254.169.254", "http://169.254.169.254/latest/meta-data", "http://2852039166/", "http://127.0.0.1\\@evil",
    "https://user:password@evil.example/x", "file:///etc/passwd", "file:///", "//host/x", "//169.254.169.254/x", "..", ".",
    "../..", "a/..", "../a/b", "a/b/../../c", "hf://a/b", "s3://a/b", "a--b/c", "\\\\host\\share", "a/b@evil", "a:b", "a\0b",
    "~nobody/x", "~/no/such", "[::1]/x", "a/b?c", "a/b#c", "a%2fb", "x" * 5000, "/" + "x" * 5000, "\ud800",
)  # fmt: skip


@pytest.mark.parametrize("words", NO_MODELS)
def test_what_is_no_model_opens_no_connection(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        pytest.fail(f"a connection was opened for {words!r:.60}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    refusal(words)
    for load in (build.load_config, build.load_tokenizer, build.weights_location):
        with pytest.raises(PlanError):
            load(Plan(model=words))


def test_a_token_that_is_typed_as_a_model_is_not_sent_to_the_hub() -> None:
    assert "access token" in refusal("hf_" + "CANARY0123456789" * 2)


# --- the hub --------------------------------------------------------------------------------------------------------

PICKLED_REPOSITORY = {
    "id": "somebody/pickled",
    "siblings": [{"rfilename": name} for name in ("config.json", "pytorch_model.bin", "safetensors/readme.txt")],
    "securityRepoStatus": {"scansDone": True, "filesWithIssues": []},  # the hub calls it clean
}


def answering(answer: bytes) -> HTTPServer:
    """A hub that says the same of every repository."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def asked(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    server = answering(answer)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        hub_lookups.refuse_if_refused("models", "somebody/pickled", field="model")
    finally:
        server.shutdown()


def test_pickled_weights_of_the_hub_are_refused_though_its_scan_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match=r"pytorch_model\.bin"):
        asked(json.dumps(PICKLED_REPOSITORY).encode(), monkeypatch)


@pytest.mark.parametrize("answer", [b"", b"[]", b"{", b'{"siblings": 3}', b'{"siblings": [1, {"rfilename": 2}]}', b"[" * 10**5])
def test_a_hub_that_lists_no_files_is_believed_for_now(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(answer, monkeypatch)


def test_an_endless_answer_of_the_hub_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tracemalloc.start()
    asked(b"x" * (5 * hub_lookups.LARGEST_LISTING), monkeypatch)
    assert tracemalloc.get_traced_memory()[1] < 8 * hub_lookups.LARGEST_LISTING  # the stub's own answer is among it
    tracemalloc.stop()


def test_code_in_what_was_fetched_from_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    snapshot = tmp_path / "snapshot"
    shutil.copytree(DEMO, snapshot)
    add_to(snapshot / "tokenizer_config.json", {"auto_map": AUTO_MAP})
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: str(snapshot / name))
    with pytest.raises(PlanError, match=r"tokenizer_config\.json"):
        build.load_config(Plan(model="somebody/code"))
    assert models.find("somebody/code").id == "somebody/code"


# --- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "version"),
    [("torch", "2.5.1"), ("torch", "2.5.1+cu124"), ("datasets", "3.6.0"), ("pyarrow", "14.0.0"), ("transformers", "4.57.0")],
)
def test_a_worker_refuses_libraries_with_known_holes(
    library: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-32434 (torch), loading scripts (datasets < 4), CVE-2023-47248 (pyarrow), CVE-2026-1839 (transformers)."""
    libraries.load()
    monkeypatch.setattr(f"{library}.__version__", version)
    (tmp_path / "plan.json").write_text(first_plan().to_json())
    assert train.main(tmp_path) == 1
    last = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "failed"
    assert f"{library} {version} is installed" in last["message"]


def test_so_does_the_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries.load()
    monkeypatch.setattr("torch.__version__", "2.5.1")
    assert "torch 2.5.1 is installed" in estimators.answer(first_plan().to_json())["error"]


@pytest.mark.parametrize("words", ["assets/demo_model", "engine/data", "tests/security"])
def test_a_folder_of_this_program_is_no_hub_id(words: str) -> None:
    """transformers opens a folder of that name in its working directory before it asks the hub."""
    with pytest.raises(PlanError, match="is a folder of this program"):
        models.find(words)
