"""The routes of our own: the login, downloads, and what a run has measured.

Who asks was settled by the border; what they find is in their own home, so another visitor's run is no run at all.
"""

from __future__ import annotations

from urllib.parse import parse_qs

import fastapi
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse

from engine.export import downloads
from engine.jobs import runs
from engine.system import events
from ui.web.access import Access, Mode
from ui.web.login import login_page

LARGEST_LOGIN = 2**12  # bytes of the form


def add(app: fastapi.FastAPI, access: Access) -> None:
    """Declare the routes."""

    @app.get("/login")
    def show_login() -> Response:
        return login_page() if access.mode is Mode.TOKEN else RedirectResponse("/", status_code=303)

    @app.post("/login")
    async def log_in(request: fastapi.Request) -> Response:
        address = request.client.host if request.client else ""
        if access.must_wait(address):
            return login_page(status=429, notice="Too many wrong tokens came from here. Wait a minute, then try again.")
        form = await request.body()
        fields = parse_qs(form.decode("utf-8", errors="replace")) if len(form) <= LARGEST_LOGIN else {}
        if access.mode is not Mode.TOKEN or not access.is_token(fields.get("token", [""])[0].strip()):
            access.failed(address)
            return login_page(status=401, notice="That is not the token. Copy it from where the server was started.")
        response = RedirectResponse("/", status_code=303)
        response.headers["set-cookie"] = access.entitlement(request)
        return response

    @app.get("/download/{run_id}/{name}.zip")
    def download(run_id: str, name: str) -> Response:
        files = downloads.find(run_id, name)
        if files is None:
            return PlainTextResponse("There is nothing to download here.", status_code=404)
        title = downloads.zip_name(run_id, name)
        size, chunks = downloads.zip_stream(files, title)
        headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{title}.zip"'}
        return StreamingResponse(chunks, media_type="application/zip", headers=headers)

    @app.get("/api/runs/{run_id}/events")
    def run_events(run_id: str, since: int = 0) -> Response:
        run = runs.get(run_id)
        if run is None:
            return JSONResponse({"detail": "There is no such run."}, status_code=404)
        fresh, cursor = events.since(run.folder, max(0, since))
        return JSONResponse({"events": fresh, "cursor": cursor, "state": run.state})
