"""Environment variables that Gradio reads: which of them keep the server from starting, and which are set for it.

Gradio 6.31 lets them open its file access, share the page over a tunnel, allow its code to be edited or loosen its check of
origins. Each has one row here; tests/security/test_start.py reads Gradio's source and fails where a variable has none.
`close()` is called before Gradio is imported, since it reads some of them on import.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping


class StartError(Exception):
    """The server cannot start; the text is one sentence with the remedy."""


# What each would open. Gradio takes some for true whatever they say ("False", "0", a blank), so any text is refused.
REFUSED = {
    "GRADIO_ALLOWED_PATHS": "it lets visitors read the files below these paths",
    "GRADIO_HISTORY_BUCKET": "it copies what visitors type and get to a bucket",
    "GRADIO_IS_E2E_TEST": "it forgets each visitor's state after a second",
    "GRADIO_LOCAL_DEV_MODE": "it answers calls of the origin null, which any website can make",
    "GRADIO_MCP_SERVER": "it offers every event of the page as a tool; app.py --mcp offers the read-only ones",
    "GRADIO_PROFILING": "it adds a route on which everybody reads how the events of others went",
    "GRADIO_SHARE": "it opens the page to the internet through a tunnel",
    "GRADIO_TEMP_DIR": "Gradio serves files below this folder, and this program keeps it in its own data folder",
    "GRADIO_VIBE_MODE": "it lets visitors edit the code of the page",
    "GRADIO_WATCH_DEMO_NAME": "it is a setting of Gradio's reload mode, which runs changed code",
    "GRADIO_WATCH_DEMO_PATH": "it is a setting of Gradio's reload mode, which runs changed code",
    "GRADIO_WATCH_DIRS": "it is a setting of Gradio's reload mode, which runs changed code",
    "GRADIO_WATCH_MODULE_NAME": "it is a setting of Gradio's reload mode, which runs changed code",
    "GRADIO_HOT_RELOAD": "it is a setting of Gradio's reload mode, which runs changed code",
}

# What Gradio reads in place of whatever is set, and why.
FORCED = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # it reports each start and the kinds of components to Gradio's makers
    "GRADIO_RUN_HISTORY": "False",  # it keeps what people type in their browser's storage
    "GRADIO_SSR_MODE": "False",  # it starts a second web server, in Node, which our guard does not stand before
}

# What may be set, and why that opens nothing.
HARMLESS = {
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "how often analytics are written to memory",
    "GRADIO_ANALYTICS_MAX_EVENTS": "how many events analytics keep in memory",
    "GRADIO_BLOCKED_PATHS": "only takes paths away, and only in launch()",
    "GRADIO_CACHE_EXAMPLES": "the page has no gr.Examples",
    "GRADIO_CACHE_MODE": "the page has no gr.Examples",
    "GRADIO_CHAT_FLAGGING_MODE": "the page has no gr.ChatInterface",
    "GRADIO_DEBUG": "only in launch(), which is not used",
    "GRADIO_DEFAULT_CONCURRENCY_LIMIT": "how many events of a kind run at once, where the page does not say",
    "GRADIO_EXAMPLES_CACHE": "the page has no gr.Examples",
    "GRADIO_FLAGGING_MODE": "the page has no gr.Interface",
    "GRADIO_HEARTBEAT_INTERVAL": "seconds between two signs of life of a stream",
    "GRADIO_NODE_NUM_PORTS": "of the server in Node, which is never started",
    "GRADIO_NODE_PATH": "of the server in Node, which is never started",
    "GRADIO_NODE_SERVER_NAME": "of the server in Node, which is never started",
    "GRADIO_NODE_SERVER_PORT": "of the server in Node, which is never started",
    "GRADIO_NUM_PORTS": "only in launch(); a Space sets it",
    "GRADIO_NUM_WORKERS": "only in launch(), which is not used",
    "GRADIO_PYTHON_HOST": "of the server in Node, which is never started",
    "GRADIO_PYTHON_PORT": "of the server in Node, which is never started",
    "GRADIO_RESET_EXAMPLES_CACHE": "the page has no gr.Examples",
    "GRADIO_ROOT_PATH": "the path at which a proxy shows the page; links are built with it",
    "GRADIO_SERVER_MODE_ENABLED": "of the server in Node, which is never started",
    "GRADIO_SERVER_NAME": "this program listens where HOST says, on 127.0.0.1 without it; a Space sets it",
    "GRADIO_SERVER_PORT": "this program listens where PORT says",
    "GRADIO_SHARE_SERVER_ADDRESS": "of the tunnel, which is never opened",
    "GRADIO_STATIC_WORKER_PORTS": "of the server in Node, which is never started",
    "GRADIO_WATCH_ENCODING": "of the reload mode, which is refused",
    "GRADIO_WORKFLOW_INBROWSER": "the page has no workflow",
}


def close(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what Gradio must read. Raises `StartError` for a variable that would open the server behind our back."""
    for name, opens in REFUSED.items():
        if environment.pop(name, "") != "":  # Gradio takes some for set that are empty
            raise StartError(f"{name} is set, and {opens}. Unset it and start again.")
    environment.update(FORCED)
