"""Who a caller is, in the three modes in which the server runs.

    local    on this computer's own address: no login; everything belongs to the person at the computer
    token    for others who have the access token of the printed address: everything belongs to them together
    demo     for anybody, on a Hugging Face Space: each browser session has a home of its own, which is erased after a while

A browser session has a key in an HttpOnly cookie that the server signs. In local and token mode it only tells which
uploads are whose; on a demo it is what a visitor's data hang on, so it is never shown, written down or logged.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import StrEnum
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode

from starlette.requests import HTTPConnection

from engine.system import visitors
from engine.system.home import server_home

TOKEN_VARIABLE = "FITTINGROOM_TOKEN"
FEWEST_TOKEN_CHARACTERS = 16
MOST_FAILURES, FAILURES_SECONDS = 5, 60.0  # wrong tokens of one address (faults.md, T21: the values of Unsloth Studio)
ADDRESSES_REMEMBERED = 1000


class Mode(StrEnum):
    """How the server treats callers."""

    LOCAL = "local"
    TOKEN = "token"
    DEMO = "demo"


def mode_here(*, loopback: bool) -> Mode:
    """The mode that address and environment ask for: a token that is set wins, then a Space, then the address."""
    if os.environ.get(TOKEN_VARIABLE):
        return Mode.TOKEN
    if "SPACE_ID" in os.environ:
        return Mode.DEMO
    return Mode.LOCAL if loopback else Mode.TOKEN


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request.

    session: the key of the browser session, "" for a program that keeps no cookies.
    entitled: whether the token was shown, where one is needed.
    """

    session: str
    entitled: bool


class Access:
    """Reads callers from requests, and writes the cookies that they come back with."""

    def __init__(self, mode: Mode, port: int, token: str | None = None) -> None:
        self.mode = mode
        self.token = token or os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(32)
        self._secret = visitors.secret(server_home())
        # Cookies do not tell ports of one host apart, so their names do.
        self.session_cookie, self.token_cookie = f"fittingroom-session-{port}", f"fittingroom-token-{port}"
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    # --- reading ----------------------------------------------------------------------------------------------------

    def caller(self, request: HTTPConnection) -> Caller:
        """Who sent the request, by its cookies and its Authorization header."""
        cookies = _cookies(request)
        return Caller(
            session=self._session_of(cookies.get(self.session_cookie, "")),
            entitled=self.mode is not Mode.TOKEN or self._shows_token(request, cookies),
        )

    def visitor(self, caller: Caller) -> str | None:
        """The name of the home that a caller's data are in; None for that of the server itself."""
        if self.mode is not Mode.DEMO:
            return None
        return visitors.name_of(caller.session) if caller.session else visitors.NOBODY

    def _session_of(self, cookie: str) -> str:
        key, _, signature = cookie.partition(".")
        return key if key and _same(signature, self._signed("session", key)) else ""

    def _shows_token(self, request: HTTPConnection, cookies: dict[str, str]) -> bool:
        if _same(cookies.get(self.token_cookie, ""), self._signed("token", self.token)):
            return True
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.is_token(shown.strip())

    def is_token(self, words: str) -> bool:
        """Whether these words are the access token, in constant time."""
        return _same(words, self.token)

    def _signed(self, purpose: str, words: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{words}".encode(), hashlib.sha256).hexdigest()

    # --- writing ----------------------------------------------------------------------------------------------------

    def new_session(self, request: HTTPConnection) -> tuple[str, str]:
        """(the key of a new session, the Set-Cookie header that gives it to the browser)."""
        key = secrets.token_hex(16)
        return key, self._cookie(request, self.session_cookie, f"{key}.{self._signed('session', key)}")

    def entitlement(self, request: HTTPConnection) -> str:
        """The Set-Cookie header for somebody who has shown the token; the token itself is not in it."""
        return self._cookie(request, self.token_cookie, self._signed("token", self.token))

    def _cookie(self, request: HTTPConnection, name: str, value: str) -> str:
        # A Space is shown in a frame of another site. There a browser sends back only what is SameSite=None, Secure and
        # kept apart for each surrounding site.
        framed = request.url.scheme == "https" and "SPACE_ID" in os.environ
        site = "SameSite=None; Secure; Partitioned" if framed else "SameSite=Lax"
        return f"{name}={value}; Path=/; HttpOnly; {site}"

    # --- guessing ---------------------------------------------------------------------------------------------------

    def failed(self, address: str) -> None:
        """Note a wrong token."""
        times = self._failures.setdefault(address, deque(maxlen=MOST_FAILURES))
        times.append(time.monotonic())
        self._failures.move_to_end(address)
        while len(self._failures) > ADDRESSES_REMEMBERED:
            self._failures.popitem(last=False)

    def must_wait(self, address: str) -> bool:
        """Whether this address has sent too many wrong tokens within the last minute."""
        times = self._failures.get(address)
        return times is not None and len(times) == MOST_FAILURES and time.monotonic() - times[0] < FAILURES_SECONDS


def _same(words: str, secret: str) -> bool:
    """Whether they are equal, in constant time; `compare_digest` takes texts in ASCII alone."""
    return hmac.compare_digest(words.encode(), secret.encode())


def _cookies(request: HTTPConnection) -> dict[str, str]:
    try:
        parsed = SimpleCookie(request.headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in parsed.items()}


def token_in_query(query: bytes) -> tuple[str | None, str]:
    """(the token of `?token=`, the query without it)."""
    pairs = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    token = pairs.pop("token", [None])[0]
    return token, urlencode(pairs, doseq=True)
