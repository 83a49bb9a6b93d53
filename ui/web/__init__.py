"""The web server around the page: who may talk to it, what it answers, and where it listens.

    server.py      starting: address, lock of the data folder, the application, answering until it is told to end
    switches.py    Gradio's environment variables: which are refused, which are harmless
    policy.py      ROUTES: every route that is answered, and what a caller needs for it
    access.py      the three modes (local, token, demo), and who a caller is
    border.py      the middleware before every route: host, origin, size, token, owner, files, headers
    inputs.py      what an event may be sent: as many values as it takes, each of the kind of its component
    headers.py     the security headers, and the nonce of the page's own scripts
    claims.py      which session, event and file belongs to which caller
    routes.py      the routes of our own: login, downloads, events of a run
    janitor.py     what is done in the background: endings of runs, what visitors leave behind, old copies of uploads
    handlers.py    what every handler of the page is wrapped in: faults become a sentence, and the caller's data are all it sees
    api.py         the planner's questions as endpoints for programs
    url_state.py   what the page keeps in its address

Imports views, the engine and, for the planner's endpoints, the estimators; the rooms after it and app.py may import it.
"""
