"""The login page of token mode: one field. It is whole in itself, since without the token nothing else is served."""

from __future__ import annotations

import re
import secrets

from starlette.responses import HTMLResponse, Response

from engine.system.home import ASSETS

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fitting Room: log in</title>
<style nonce="{nonce}">
:root {{ {paper} }}
@media (prefers-color-scheme: dark) {{ :root {{ {ink} }} }}
body {{ margin: 0; min-height: 100vh; background: var(--paper); color: var(--ink); font: 15px/1.5 {font}; }}
header {{ height: 66px; padding: 0 32px; display: flex; gap: 10px; align-items: center; border-bottom: 1px solid var(--line);
  font-size: 18px; font-weight: 700; letter-spacing: -0.01em; }}
header i {{ box-sizing: border-box; width: 30px; height: 18px; border: 2px solid var(--ink); border-radius: 3px;
  background: repeating-linear-gradient(90deg, var(--ink) 0 1.5px, transparent 1.5px 5px) 0 100% / 100% 5px no-repeat; }}
main {{ box-sizing: border-box; max-width: 464px; margin: 0 auto; padding: 64px 32px 32px; }}
form {{ display: grid; gap: 14px; padding: 22px 24px 24px; background: var(--card); border: 1px solid var(--line);
  border-radius: var(--radius); }}
h1 {{ margin: 0; font-size: 26px; line-height: 1.25; letter-spacing: -0.02em; }}
p {{ margin: 0; color: var(--mute); }}
label {{ margin-bottom: -9px; font-size: 13px; color: var(--mute); }}
input, button {{ box-sizing: border-box; width: 100%; font: inherit; }}
input {{ padding: 9px 12px; border: 1px solid var(--line); border-radius: 8px; background: var(--paper); color: var(--ink); }}
button {{ padding: 13px 20px; border: 1px solid var(--accent); border-radius: 10px; background: var(--accent);
  color: var(--on-accent); font-weight: 600; cursor: pointer; }}
button:hover {{ background: var(--accent-strong); border-color: var(--accent-strong); }}
:focus-visible {{ outline: 2px solid var(--focus); outline-offset: 2px; }}
[role=alert] {{ padding: 9px 12px; border-radius: 8px; background: var(--no-bg); color: var(--no); }}
@media (max-width: 640px) {{ header {{ height: 52px; padding: 0 16px; }} main {{ padding: 32px 16px 16px; }} }}
</style>
</head>
<body>
<header><i aria-hidden="true"></i>Fitting Room</header>
<main>
<form method="post" action="/login">
<h1>Log in</h1>
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
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'  # as in ui/views/theme.py
# The colours of the page, on paper and on ink: the first two blocks of its style sheet.
_PAPER, _INK = re.findall(
    r"^(?::root|\.dark) \{(.*?)\}", (ASSETS / "style.css").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


def login_page(*, status: int = 200, notice: str = "") -> Response:
    """The page, with a sentence of our own above its field."""
    nonce = secrets.token_urlsafe(16)
    alert = f'<p role="alert">{notice}</p>' if notice else ""
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    page = _PAGE.format(nonce=nonce, notice=alert, paper=_PAPER.strip(), ink=_INK.strip(), font=_FONT)
    # Without a referrer a browser sends "Origin: null" with a form, which the border takes for another website's.
    headers = {"content-security-policy": policy, "cache-control": "no-store", "referrer-policy": "same-origin"}
    return HTMLResponse(page, status_code=status, headers=headers)
