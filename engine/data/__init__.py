"""Training data: where it is, whether every row can be read, and the rows as TRL takes them.

    formats.py    FORMATS: the kinds of rows that people have, and what they become
    chat_rows.py  their readers: chats, pairs, verdicts
    task_rows.py  their readers: the tasks beyond chat
    turns.py      conversations, in the ways in which people write them
    values.py     values of a row, or what is wrong with them
    reading.py    files as rows, each with its exact line
    sources.py    demo sets, uploads, hub sets, local files
    images.py     a zip of images as rows
    coco.py       boxes round things on images, and COCO's files
    pictures.py   images opened, checked, and made small for the page
    hub.py        data sets of the hub, fetched once
    limits.py     how much of a file is read
    scanning.py   one pass over a file: what it holds, what is wrong with it
    previews.py   its first rows, for the page
    sandbox.py    a process with limits, which reads a file first
    reader.py     what that process runs
    rows.py       the rows of a plan: loaded, mixed, split

No torch in here; the web process uses it too. Imports objectives and the rooms before them.
"""

from engine.data.formats import FORMATS, SHAPES, Format, Recognition, roles, texts
from engine.data.hub import fetch
from engine.data.rows import as_dataset, as_trl, held_out_places, iterate, load, row_id, split, store_upload
from engine.data.scanning import SHOWN_ISSUES, Scan, preview, scan
from engine.data.sources import UPLOAD_ID, fingerprint, is_hub, locate, title, uploads, uploads_bytes
from engine.data.values import Row
from engine.system.home import uploads_folder

__all__ = [
    "FORMATS",
    "SHAPES",
    "SHOWN_ISSUES",
    "UPLOAD_ID",
    "Format",
    "Recognition",
    "Row",
    "Scan",
    "as_dataset",
    "as_trl",
    "fetch",
    "fingerprint",
    "held_out_places",
    "is_hub",
    "iterate",
    "load",
    "locate",
    "preview",
    "roles",
    "row_id",
    "scan",
    "split",
    "store_upload",
    "texts",
    "title",
    "uploads",
    "uploads_bytes",
    "uploads_folder",
]
