"""What the Data tab shows, as HTML of our own: the tokens of a row, the findings, the rows as they are read.

Pure functions. Text of a file is only ever escaped text here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from engine.data import FORMATS, Scan
from engine.data.cleaning import CLEANINGS, Cleaned
from engine.data.pictures import Box, Picture
from engine.data.values import Row
from engine.modeling.xray import Finding, Look, Piece, Strip, XRay
from ui.views import formats, markup

CELL_CHARACTERS = 160
LEGEND = (
    '<p class="legend" aria-hidden="true"><span><i class="tok on">learned</i> the loss is computed on it</span>'
    '<span><i class="tok">read</i> only read</span><span><i class="tok off">cut</i> beyond the longest sequence</span></p>'
)
BAR_CLASSES = 12


# --- the source -----------------------------------------------------------------------------------------------------


def source_facts(scan: Scan) -> str:
    """The size of a set, what its rows were recognised as, and what cannot be used."""
    recognised = FORMATS[scan.recognised].label if scan.recognised else "not recognised"
    longest = f"{formats.whole(scan.longest)} characters" if scan.rows else formats.UNKNOWN
    of_text = [("Characters", formats.count(scan.characters)), ("Longest row", longest)]
    without_text = bool(scan.rows) and not scan.characters  # images
    pairs = [("Rows", formats.whole(scan.rows)), *([] if without_text else of_text), ("Recognised as", recognised)]
    if scan.bad:
        pairs.append(("Cannot be used", formats.whole(scan.bad)))
    if scan.empty:
        pairs.append(("Empty, left out", formats.whole(scan.empty)))
    return markup.facts(pairs) + issues(scan)


def issues(scan: Scan) -> str:
    """What is wrong with the file, a sentence each."""
    told = "".join(
        f'<li class="issue-{formats.escape(issue.severity)}">{formats.escape(f"{issue.message} {issue.fix}".strip())}</li>'
        for issue in scan.issues
    )
    return f'<ul class="issues">{told}</ul>' if told else ""


def rows_table(rows: Sequence[Row], told: str) -> str:
    """A few rows as a table, long cells cut, with a caption."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    heads = "".join(f'<th scope="col">{formats.escape(column)}</th>' for column in columns)
    body = "".join(
        "<tr>"
        + "".join(f'<td data-label="{formats.escape(column)}">{_cell(row.get(column))}</td>' for column in columns)
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="rows"><caption>{formats.escape(told)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, Picture):
        return f'<img class="thumb" src="{value.source}" alt="Image of {value.width} x {value.height} pixels">'
    if isinstance(value, list) and value and all(isinstance(one, Picture) for one in value):
        return "".join(map(_cell, value))
    if isinstance(value, list) and value and all(isinstance(one, dict) and "box" in one for one in value):
        value = ", ".join(f"{one['label']} {_numbers(one['box'])}" for one in value)
    if isinstance(value, dict) and _is_turn(value):
        value = [value]
    if isinstance(value, list) and value and all(map(_is_turn, value)):
        shown = (
            f"<b>{formats.escape(turn.get('role', turn.get('from')))}</b> {formats.escape(_turn(turn))}" for turn in value[:4]
        )
        return "<br>".join(shown) + ("<br>…" if len(value) > 4 else "")
    return formats.escape(_short(value if isinstance(value, str) else "" if value is None else str(value)))


def _numbers(box: Sequence[float]) -> str:
    return f"({', '.join(f'{one:g}' for one in box)})"


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and ({"role", "content"} <= set(value) or {"from", "value"} <= set(value))


def _turn(turn: Row) -> str:
    said = turn.get("content", turn.get("value"))
    if isinstance(said, list):
        said = " ".join(str(part.get("text", f"[{part.get('type')}]")) for part in said if isinstance(part, dict))
    calls = f"calls {turn['tool_calls']}" if turn.get("tool_calls") else ""
    return _short(" ".join(part for part in ("" if said is None else str(said), calls) if part))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= CELL_CHARACTERS else line[: CELL_CHARACTERS - 1] + "…"


# --- one row as tokens ----------------------------------------------------------------------------------------------


def row(look: Look) -> str:
    """The row as it is rendered, token by token. What is learned is underlined and set on a tint; what is cut is struck
    through: none of it needs colour."""
    strips = "".join(_strip(strip) for strip in look.strips) or markup.note("This row has no text: the image is what is read.")
    learned = f'<p class="answer"><b>To be learned:</b> {formats.escape(look.label)}</p>' if look.label else ""
    shown = figure(look.picture) if look.picture else ""
    return f"{LEGEND if look.strips else ''}{shown}{strips}{learned}{markup.note(look.note)}"


def figure(picture: Picture) -> str:
    """An image with its boxes, each with its label on it; what is on it is told in words too."""
    boxes = "".join(_box(box) for box in picture.boxes)
    told = f"Image of {picture.width} x {picture.height} pixels"
    if picture.boxes:
        told += f" with boxes round: {', '.join(_box_label(box) for box in picture.boxes)}"
    shape = f"aspect-ratio: {picture.width} / {picture.height}"
    return f'<figure class="shot" style="{shape}"><img src="{picture.source}" alt="{formats.escape(told)}">{boxes}</figure>'


def _box(box: Box) -> str:
    sides = {"left": box.left, "top": box.top, "width": box.width, "height": box.height}
    where = "; ".join(f"{side}: {100 * share:.2f}%" for side, share in sides.items())
    return f'<i class="box" style="{where}" aria-hidden="true"><b>{formats.escape(_box_label(box))}</b></i>'


def _box_label(box: Box) -> str:
    return box.label if box.share is None else f"{box.label} {box.share:.0%}"


def _strip(strip: Strip) -> str:
    name = f"<b>{formats.escape(strip.name.capitalize())}</b> " if strip.name else ""
    facts = f"{formats.whole(strip.tokens)} tokens, {formats.whole(strip.trained)} of them learned"
    text = "".join(_run(pieces) for pieces in _runs(strip.pieces))
    more = f'<span class="tok-more">… {formats.whole(strip.hidden)} more tokens</span>' if strip.hidden else ""
    box = f'<div class="strip" tabindex="0" role="group" aria-label="Tokens">{text}{more}</div>'
    return f'<p class="strip-facts">{name}{facts}</p>{box}'


def _runs(pieces: Sequence[Piece]) -> Iterable[list[Piece]]:
    """Neighbours that are treated alike, so that a screen reader is told once where learning begins and ends."""
    run: list[Piece] = []
    for piece in pieces:
        if run and (piece.trained, piece.cut) != (run[-1].trained, run[-1].cut):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _run(pieces: Sequence[Piece]) -> str:
    inner = "".join(f'<i class="{"tok special" if piece.special else "tok"}">{_visible(piece.text)}</i>' for piece in pieces)
    first = pieces[0]
    if first.cut:
        return f'<del class="off"><span class="unseen">[cut: </span>{inner}<span class="unseen">]</span></del>'
    if first.trained:
        return f'<ins class="on"><span class="unseen">[learned: </span>{inner}<span class="unseen">]</span></ins>'
    return f"<span>{inner}</span>"


def _visible(text: str) -> str:
    """A line's end is shown and made; nothing else of the text is changed."""
    return formats.escape(text).replace("\n", '<span class="nl">↵</span><br>')


# --- the whole ------------------------------------------------------------------------------------------------------


def length_facts(found: XRay) -> str:
    """The lengths in figures; of images without words, how many there are."""
    if not found.longest:
        return markup.facts([("Training rows", formats.whole(found.rows))]) + markup.note("The rows have no words to count.")
    sample = "" if found.exact else f" (from {formats.whole(found.counted)} rows)"
    learned = found.trained / found.counted_tokens if found.counted_tokens else 0
    pairs = [
        ("Training rows", formats.whole(found.rows)),
        ("Tokens", formats.count(found.tokens) + sample),
        ("Median", f"{formats.whole(found.median)} tokens"),
        ("Longest", f"{formats.whole(found.longest)} tokens"),
        *_cut(found),
    ]
    if found.by_tokens:
        pairs.append(("Tokens learned", f"{learned:.0%}"))
    return markup.facts(pairs)


def _cut(found: XRay) -> list[tuple[str, str]]:
    """What the longest sequence costs; rows that are packed lose nothing by it."""
    if found.packed:
        sequences = formats.whole(math.ceil(found.tokens / found.max_length))
        return [("Packed into", f"{sequences} sequences of {formats.whole(found.max_length)}")]
    return [
        ("Rows cut", _part(formats.whole(found.cut_rows), found.cut_rows, found.counted)),
        ("Tokens cut", _part(formats.count(found.cut_tokens), found.cut_tokens, found.counted_tokens)),
    ]


def _part(said: str, part: int, whole: int) -> str:
    if not part:
        return "none"
    share = part / whole
    return f"{said} ({share:.1%})" if share < 0.1 else f"{said} ({share:.0%})"


def findings(found: XRay) -> str:
    """What stops a start, then what is odd, with a few rows of each."""
    told = "".join(markup.note(formats.issue(issue), "bad" if issue.severity == "error" else "warn") for issue in found.issues)
    if not found.findings:
        return told + markup.note("✓ Nothing odd was found: no copies, no leaks, no empty or strange rows.", "good")
    return told + '<ul class="findings">' + "".join(_finding(one) for one in found.findings) + "</ul>"


def _finding(one: Finding) -> str:
    sign = "!" if one.serious else "·"
    advice = f"<small>Cleaning: {formats.escape(CLEANINGS[one.cleaning].label)}</small>" if one.cleaning else ""
    examples = "".join(f"<li>{formats.escape(example)}</li>" for example in one.examples)
    folded = f"<details><summary>Show some</summary><ul>{examples}</ul></details>" if examples else ""
    rows = f"<b>{formats.whole(one.rows)} {'row' if one.rows == 1 else 'rows'}</b>"
    kind = "serious" if one.serious else "mild"
    line = f'<p><i aria-hidden="true">{sign}</i> {rows} {formats.escape(one.label)} {advice}</p>'
    return f'<li class="{kind}">{line}{folded}</li>'


def shares(title: str, counted: Sequence[tuple[str, int]]) -> str:
    """Classes or languages with their rows, as bars with figures."""
    if not counted:
        return ""
    total, most = sum(rows for _, rows in counted), counted[0][1]
    lines = "".join(
        f"<tr><th scope=row>{formats.escape(name)}</th><td><i style='width:{100 * rows / most:.1f}%'></i></td>"
        f"<td>{formats.whole(rows)} <small>{rows / total:.0%}</small></td></tr>"
        for name, rows in counted[:BAR_CLASSES]
    )
    more = len(counted) - BAR_CLASSES
    rest = markup.note(f"And {formats.whole(more)} more.") if more > 0 else ""
    return f'<table class="bars"><caption>{formats.escape(title)}</caption>{lines}</table>{rest}'


def held_out(found: XRay, share: float, seed: int) -> str:
    """The split, and how it stays what it is."""
    if not found.held_out:
        return markup.note("No rows are held out. Set a held-out share (Plan, More settings) to see the evaluation loss.")
    drawn = f"{formats.whole(found.held_out)} of {formats.whole(found.rows + found.held_out)} rows ({share:.0%})"
    return markup.note(
        f"Held out: {drawn}, drawn with seed {seed} by their content. A row stays held out when others are cleaned away or "
        "added, and copies of a row are always on one side."
    )


def cleaned(result: Cleaned) -> str:
    """What a cleaning has removed, and the name of the new version."""
    lines = "".join(
        f'<tr><th scope="row">{formats.escape(label)}</th><td>−{formats.whole(rows)}</td></tr>'
        for label, rows in result.removed
    )
    return (
        markup.note(
            f"✓ {result.name} has {formats.whole(result.after)} of {formats.whole(result.before)} rows, "
            "and the plan uses it now. The old version is still there.",
            "good",
        )
        + f'<table class="proof">{lines}</table>'
    )
