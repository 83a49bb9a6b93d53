"""The address of the page: what a person chose or started is kept in it, so that a reload, a bookmark or a second tab shows it.

?run=, ?chain= and ?compare= name what is shown; ?again= names the run whose plan is loaded.
"""

from __future__ import annotations

NAMES = ("run", "again", "chain", "compare")

# What stands in the address, in the order of NAMES.
READ = f"""() => {{
    const words = new URLSearchParams(window.location.search);
    return {list(NAMES)}.map((name) => words.get(name) || '');
}}"""


def remember(name: str) -> str:
    """The script that writes the chosen id behind one of the names, alone."""
    assert name in NAMES, name
    return f"""(chosen) => {{
    const address = new URL(window.location);
    for (const name of {list(NAMES)}) address.searchParams.delete(name);
    if (chosen) address.searchParams.set('{name}', chosen);
    window.history.replaceState({{}}, '', address);
}}"""
