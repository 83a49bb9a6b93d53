"""The login page of token mode: one field. It is whole in itself, since without the token nothing else is served."""

from __future__ import annotations

import secrets

from starlette.responses import HTMLResponse, Response

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fitting Room: log in</title>
<style nonce="{nonce}">
:root {{ color-scheme: light dark; --paper: #faf7f2; --ink: #23201c; --line: #d9d2c7; --accent: #1f6f54; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #1b1917; --ink: #ece6dd; --line: #3b3732; --accent: #6cc3a1; }} }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }}
form {{ width: min(26rem, 88vw); display: grid; gap: .8rem; }}
h1 {{ font-size: 1.4rem; margin: 0; }}
p {{ margin: 0; }}
input, button {{ font: inherit; padding: .6rem .7rem; border-radius: 8px; border: 1px solid var(--line); }}
input {{ background: transparent; color: inherit; }}
button {{ background: var(--accent); color: var(--paper); border-color: transparent; cursor: pointer; }}
[role=alert] {{ font-weight: 600; }}
</style>
</head>
<body>
<main>
<form method="post" action="/login">
<h1>Fitting Room</h1>
<p>This server needs its access token. It is in the address that was printed where the server was started.</p>
{notice}
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Log in</button>
</form>
</main>
</body>
</html>
"""


def login_page(*, status: int = 200, notice: str = "") -> Response:
    """The page, with a sentence of our own above its field."""
    nonce = secrets.token_urlsafe(16)
    alert = f'<p role="alert">{notice}</p>' if notice else ""
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    page = _PAGE.format(nonce=nonce, notice=alert)
    return HTMLResponse(page, status_code=status, headers={"content-security-policy": policy, "cache-control": "no-store"})
