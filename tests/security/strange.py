"""Strange values for the inputs of the page's events: what no component would send, and what one could just send."""

from __future__ import annotations

import json
import random
from typing import Any

TEXTS: tuple[str, ...] = (
    *("", " ", "0", "-1", "nan", "inf", "1e999", "null", "true", "é", "💥" * 50, "a" * 1000, "a" * 50_000, "1" * 5000, "٣"),
    *("../../etc/passwd", "/etc/passwd", "~root/x", "/proc/self/environ", "file:///etc/passwd", "http://169.254.169.254/", "."),
    *(
        "0" * 32,
        "f" * 32,
        "upload/" + "0" * 32,
        "demo/pirate",
        "demo/llama",
        "lora",
        "sft",
        "Qwen/Qwen3-8B",
        "@1",
        "@99",
        "@²",
        "@x",
    ),
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "javascript:alert(1)", "{{7*7}}", "'; DROP TABLE runs; --"),
    *(
        "a\0b",
        "\u202egnp.exe",
        "\u200b",
        "\ufeff",
        "\ufffe",
        "line\nline\r\n",
        "\x1b[31m",
        "%s%n",
        "{0.__class__}",
        "--help",
        "$(id)",
    ),
    *("[]", "{}", "[1, 2", "5", '{"model": 5}', '{"stages": "x"}', '{"stages": [{"replay": []}]}', '{"model": "demo/llama"}'),
    *("(a+)+$", "[" * 5000, '{"a": ' * 2000, '{"model": "demo/llama", "max_steps": 1e400}', "2e9", "0x10", "16 MB", "-5 GB"),
)
NUMBERS: tuple[float, ...] = (
    *(0, 1, -1, 2, 8, 10**6, -(10**6), 2**31, 2**62, -(2**62), 0.5, -0.5, 1e-300, 1e18, -1e18, 3.0000001),
)
# Values that no component of the page sends.
OTHERS: tuple[Any, ...] = (
    *(2**63, 2**64, 10**30, -(10**30), 1e300, True, False, [], {}, [[]], [None], [1, 2, 3], ["a", "b"], {"a": 1}, {"value": 1}),
    *({"headers": [], "data": []}, {"headers": ["a"], "data": "x", "metadata": None}, [["a"] * 50] * 3, {"__type__": "update"}),
    *([{"role": "user", "content": "x"}], {"text": "x", "files": []}, {"index": 10**9}, {"": ""}, [True, {"x": [-1]}]),
    *(
        ["x"] * 5000,
        {"url": "http://169.254.169.254/"},
        {"meta": {"_type": "gradio.FileData"}},
        {"url": "data:image/png;base64,x"},
    ),
)
# JSON that readers disagree about.
RAW: tuple[str, ...] = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1" + "0" * 400,
        "1e400",
        '"\\ud800"',
        '"\\udfff\\ud800"',
        "9" * 5000,
        "[" * 2000 + "]" * 2000,
    ),
)


def anything(rng: random.Random) -> Any:
    """A value of any type, nested now and then."""
    made = rng.choice(rng.choice((TEXTS, NUMBERS, OTHERS, OTHERS, (None,))))
    for _ in range(rng.choice((0, 0, 0, 1, 2, 30))):
        made = rng.choice(([made], {"value": made}, {"x": made}))
    return made


def like(component: dict[str, Any], rng: random.Random) -> Any:
    """A value of the type that this component of /config sends, though not one that makes sense."""
    kind, props = component["type"], component["props"]
    if kind in ("number", "slider"):
        return rng.choice((*NUMBERS, None, props.get("value"), props.get("minimum"), props.get("maximum")))
    if kind in ("textbox", "code"):
        return rng.choice((*TEXTS, None))
    if kind == "checkbox":
        return rng.choice((True, False, None))
    if kind in ("dropdown", "radio", "checkboxgroup"):
        return _choice(props, several=kind == "checkboxgroup" or bool(props.get("multiselect")), rng=rng)
    if kind == "api":
        return anything(rng)
    return None  # a file that was not chosen, and what the server keeps


def _choice(props: dict[str, Any], *, several: bool, rng: random.Random) -> Any:
    offered = [value for _, value in props.get("choices") or ()]
    if several:
        return rng.sample(offered, rng.randint(0, len(offered))) + rng.choice(([], [rng.choice(TEXTS)], offered[:1] * 2))
    if rng.random() < 0.3 or not offered:
        free = props.get("allow_custom_value")
        return rng.choice((*TEXTS, None, *NUMBERS)) if free else rng.choice((None, rng.choice(TEXTS)))
    return rng.choice(offered)


def as_json(values: Any, rng: random.Random) -> bytes:
    """A body; now and then with JSON in it that readers disagree about, or cut short, or in another encoding."""
    text = json.dumps(values)
    way = rng.random()
    if way < 0.1:
        text = text.replace("null", rng.choice(RAW), 1)
    elif way < 0.13:
        return text[: rng.randrange(len(text))].encode()
    elif way < 0.16:
        return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
    return text.encode()
