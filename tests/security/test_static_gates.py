"""Nothing in the program can run code out of a file, a shell or a stranger's repository.

Each function and argument that could is forbidden in every file that people run, but for the places that are named here
with the reason. ruff's `S` rules (flake8-bandit, in pyproject.toml) forbid more of the kind.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("engine", "estimators", "ui", "benchmarks", "docs", "assets")
FILES = [ROOT / "app.py", *(file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")))]

# Calls by the end of their name, and why they are forbidden.
CALLS = {
    "torch.load": "reads pickles, which run code",
    "pickle.load": "runs code",
    "pickle.loads": "runs code",
    "joblib.load": "reads pickles, which run code",
    "dill.load": "runs code",
    "yaml.load": "makes objects of any class",
    "yaml.unsafe_load": "makes objects of any class",
    "marshal.loads": "runs code",
    "extractall": "writes wherever an archive says, as much as it says",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "subprocess.getoutput": "starts a shell",
    "eval": "runs text as code",
    "exec": "runs text as code",
    "tempfile.mktemp": "names a file that somebody else can make first",
}
MODULES = ("pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "yaml", "telnetlib", "ftplib")
# (file, what): why it is allowed there.
ALLOWED: dict[tuple[str, str], str] = {}


def name_of(call: ast.expr) -> str:
    """ "torch.load" for the function of a call; what is no name is "?"."""
    if isinstance(call, ast.Name):
        return call.id
    if isinstance(call, ast.Attribute):
        return f"{name_of(call.value)}.{call.attr}"
    return "?"


def forbidden_in(source: str) -> list[str]:
    """What a program has of what is forbidden, in the order of its lines."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            found += [call for call in CALLS if name == call or (call == "extractall" and name.endswith(".extractall"))]
            found += [f"{word.arg}=..." for word in node.keywords if _opens(word)]
            if name.endswith("gr.HTML") and any(isinstance(argument, ast.JoinedStr) for argument in node.args):
                found.append("gr.HTML(f...)")
    return found


def _opens(word: ast.keyword) -> bool:
    """Whether an argument lets a shell or a repository's code run; anything but a literal False may."""
    is_false = isinstance(word.value, ast.Constant) and word.value.value is False
    return word.arg in ("shell", "trust_remote_code", "allow_pickle") and not is_false


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_forbidden_is_used(file: Path) -> None:
    where = str(file.relative_to(ROOT))
    found = {what for what in forbidden_in(file.read_text(encoding="utf-8")) if (where, what) not in ALLOWED}
    assert found == set(), "; ".join(f"{what}: {CALLS.get(what, 'see this file')}" for what in found)


def test_what_is_allowed_is_still_used() -> None:
    for where, what in ALLOWED:
        assert what in forbidden_in((ROOT / where).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load('a.bin')",
        "torch.load('a.bin', weights_only=True)",
        "import pickle",
        "from pickle import load",
        "zipfile.ZipFile(name).extractall(folder)",
        "subprocess.run(words, shell=True)",
        "subprocess.run(words, shell=wanted)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=plan.trust)",
        "np.load(file, allow_pickle=True)",
        "eval(words)",
        "os.system('ls')",
        "gr.HTML(f'<b>{name}</b>')",
    ],
)
def test_the_gate_sees_each_kind(line: str) -> None:
    assert forbidden_in(line) != []


@pytest.mark.parametrize(
    "line", ["model.eval()", "AutoModel.from_pretrained(name, trust_remote_code=False)", "json.load(file)"]
)
def test_the_gate_lets_the_rest_through(line: str) -> None:
    assert forbidden_in(line) == []


# --- the audit of dependencies --------------------------------------------------------------------------------------


@pytest.fixture
def audit() -> object:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tests" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VULNERABLE = {
    "name": "requests",
    "version": "2.19.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}],
}


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ([[]], 0, "no advisories can be had here"),
        ([[{"name": "requests", "skip_reason": "not found"}]], 0, "no advisories can be had here"),
        ([[VULNERABLE], [{"name": "torch", "version": "1", "vulns": []}]], 0, "1 packages, no known vulnerability"),
        ([[VULNERABLE], [VULNERABLE]], 1, "requests 2.19.0: PYSEC-1 (fixed in 3)"),
    ],
)
def test_a_vulnerable_dependency_fails_and_a_missing_source_says_so(
    audit: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answers: list, code: int, said: str
) -> None:
    monkeypatch.setattr(audit, "audited", lambda *arguments: answers.pop(0))
    assert audit.main() == code  # type: ignore[attr-defined]
    assert said in capsys.readouterr().out


def test_an_advisory_is_ignored_by_any_of_its_ids(audit: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "IGNORED", {"CVE-1": "tried"})
    assert audit.vulnerabilities([VULNERABLE]) == []  # type: ignore[attr-defined]
