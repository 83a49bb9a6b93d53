"""Every door has a row: what a caller needs for each route and each event, in one golden table (doors.json).

The table is made from the router and from /config. A new route or event, or one that needs something else, fails here until
somebody has looked at it and written it down: `python -m tests.security.doors > tests/security/doors.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.doors import CLOSED, doors, example
from tests.security.served import Served, serve
from ui.web import policy
from ui.web.access import Mode
from ui.web.policy import Need

GOLDEN = json.loads((Path(__file__).parent / "doors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(request.param, tmp_path_factory.mktemp("home"), tools=True) as one:
        yield one


in_every_mode = pytest.mark.parametrize("served", list(Mode), indirect=True)


@in_every_mode
def test_every_route_and_event_is_as_written_down(served: Served) -> None:
    assert doors(served) == GOLDEN


@in_every_mode
def test_every_row_of_the_policy_is_a_route(served: Served) -> None:
    """A row for a route that Gradio no longer has is dead."""
    asked = {
        policy.find(method, example(path))[0]
        for door, need in GOLDEN["routes"].items()
        if need != CLOSED
        for method, path in [door.split(" ")]
        if policy.find(method, example(path))
    }
    assert set(policy.ROUTES) == asked


@in_every_mode
def test_a_closed_route_answers_nobody(served: Served) -> None:
    client = served.owner()
    for door, need in GOLDEN["routes"].items():
        method, path = door.split(" ")
        if need == CLOSED:
            assert client.request(method, example(path)).status_code == 404, door


@pytest.mark.parametrize("served", [Mode.TOKEN], indirect=True)
def test_without_the_token_every_route_but_the_login_is_401(served: Served) -> None:
    for stranger in (served.program(), served.program(authorization="Bearer wrong"), served.program(cookie="fittingroom=x")):
        for door, need in GOLDEN["routes"].items():
            method, path = door.split(" ")
            answer = stranger.request(method, example(path))
            expected = {CLOSED: 404, Need.NOTHING: 200}.get(need, 401)
            assert answer.status_code == expected or (method, expected) == ("POST", 200), (door, answer.status_code)


@pytest.mark.parametrize("served", [Mode.DEMO], indirect=True)
def test_a_demo_keeps_what_needs_an_owner_from_callers_without_a_session(served: Served) -> None:
    program = served.program()
    for number, event in served.site.events.items():
        answer = program.post("/gradio_api/queue/join", json={"fn_index": number, "data": [], "session_hash": f"s{number}"})
        assert (answer.status_code == 401) == (event.need is Need.OWNER), event.name
    for path in ("/gradio_api/upload_progress?upload_id=x", "/download/" + "0" * 32 + "/adapter.zip"):
        assert served.program().get(path).status_code == 401, path
