"""The doors of the server as they are: `python -m tests.security.doors > tests/security/doors.json`."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from starlette.routing import BaseRoute, Mount

from tests.security.served import Served, serve
from ui.web import policy
from ui.web.access import Mode

CLOSED = "closed"
SCRIPT = "nothing, a script of the page"


def example(path: str) -> str:
    """A path as a caller could ask for it: each parameter of the router's pattern filled in."""
    path = path.replace("{run_id}", "0" * 32).replace("{name}.zip", "adapter.zip").replace("{path_or_url:path}", "/etc/passwd")
    return re.sub(r"\{[^}]*\}", "x", path)


def routes(found: Iterable[BaseRoute], prefix: str = "") -> Iterator[str]:
    """ "GET /path" of each route, those of mounted applications included."""
    for route in found:
        if router := getattr(route, "original_router", None):  # FastAPI keeps an included router as it is
            yield from routes(router.routes, prefix)
        elif isinstance(route, Mount):
            inside = list(getattr(route.app, "routes", []) or [])
            yield from (
                routes(inside, prefix + route.path) if inside else (f"GET {prefix}{route.path}", f"POST {prefix}{route.path}")
            )
        else:
            for method in sorted(getattr(route, "methods", None) or {"GET"}):
                yield f"{method} {prefix}{getattr(route, 'path', '')}"


def doors(served: Served) -> dict[str, dict[str, str]]:
    """What each route and each event of the page needs; a route that has no row in the policy is closed."""
    needs = {}
    for door in sorted(set(routes(served.site.app.routes))):
        method, path = door.split(" ")
        row = policy.find(method, example(path))
        needs[door] = str(row[0].need) if row else CLOSED
    config = served.config
    names = {one["id"]: one["props"].get("elem_id") or one["props"].get("label") or one["type"] for one in config["components"]}
    events = {}
    for dependency in config["dependencies"]:
        event = served.site.events.get(dependency["id"])
        moments = sorted({f"{moment} of {names.get(target, 'the page')}" for target, moment in dependency["targets"]})
        name = f"{dependency['api_name']}: {', '.join(moments)}" if moments else dependency["api_name"]
        events[name] = str(event.need) if event else SCRIPT
    return {"routes": needs, "events": dict(sorted(events.items()))}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, serve(Mode.LOCAL, Path(folder), tools=True) as one:
        print(json.dumps(doors(one), indent=1))
