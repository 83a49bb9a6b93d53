"""The security headers of every answer, and the nonce that lets the page's own scripts run and no others.

Gradio writes scripts into its page and compiles the `js` of events with `new Function`, so 'unsafe-eval' stays; inline
scripts and `onerror=`-like handlers that anybody got into the page do not run, because they lack the nonce.
"""

from __future__ import annotations

import re

COMMON = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
# Who may show the page in a frame: nobody, so that no click on another site lands here; a Space is shown by its hub.
NO_FRAMES = "'none'"
SPACE_FRAMES = "https://huggingface.co https://*.hf.space"
# An answer that is no page needs nothing: an image or an SVG that is opened by itself runs no script.
NOTHING_RUNS = "default-src 'none'; sandbox; frame-ancestors 'none'"

_SCRIPT = re.compile(rb"<script\b")
# Gradio's page asks for two things of other hosts: a script that sizes frames, and hints to connect to a font server.
_FOREIGN = re.compile(rb"<script\b[^>]*\bsrc=\"https?://[^>]*>\s*</script>|<link\b[^>]*\bhref=\"https?://[^>]*>")


def page_policy(nonce: str, frames: str) -> str:
    """The Content-Security-Policy of an HTML page whose scripts carry `nonce`."""
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' 'nonce-{nonce}' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "media-src 'self' blob:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            f"frame-ancestors {frames}",
        )
    )


def with_nonce(page: bytes, nonce: str) -> bytes:
    """The page with the nonce on each script that it came with, and without what it would load from other hosts."""
    return _SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), _FOREIGN.sub(b"", page))
