"""Which alphabet and which language a text is in, roughly: enough to find the rows that are not like the others.

The alphabet comes from Unicode's names of the letters. The language of Latin texts is guessed from the commonest short
words of each language, and only said where one is clearly ahead. Standard library only.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter

LOOKED_AT = 2000  # characters of a text
FEW_WORDS = 3  # different common words; a text with fewer is not guessed at
CLEARLY = 2.0  # times as many common words as the next language
OTHER = "no letters"

# The most frequent function words of each language, those that others share left out (judgement, from common lists).
_COMMON = {
    "English": "the and of to is that it was for with are this you be on have not from",
    "German": "der die und das ist nicht ein ich sie mit den auf dem eine für wie auch wir",
    "French": "le les des est une dans qui que pour pas sur vous avec ce il nous sont au",
    "Spanish": "el los las una por con para como más pero sus del está muy ya este lo es",
    "Italian": "il di che è per non sono della con gli più anche questo nel alla ma",
    "Portuguese": "o os uma não com para mais como dos das ao pelo seu sua foi são você em",
    "Dutch": "de het een van dat niet zijn op te voor met er maar ook wij naar hij aan",
    "Polish": "na nie się że jest jak tak ale był czy dla przez tylko oraz może być już ich",
    "Turkish": "bir ve bu için ile de da çok ne gibi daha ama olarak sonra kadar mi",
    "Vietnamese": "là và của có không được cho một các những trong với này người để khi",
    "Indonesian": "yang dan di itu dengan untuk tidak ini dari dalam akan pada adalah saya",
}
LANGUAGES = tuple(_COMMON)
_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}


@functools.lru_cache(maxsize=20_000)
def _alphabet_of(sign: str) -> str:
    name = unicodedata.name(sign, "")
    first = name.split(" ", 1)[0].split("-", 1)[0].capitalize()
    return {"Cjk": "Chinese", "Hiragana": "Japanese", "Katakana": "Japanese", "Hangul": "Korean"}.get(first, first)


def alphabet(text: str) -> str:
    """The alphabet of most letters: "Latin", "Cyrillic", "Chinese", ...; `OTHER` where there are none."""
    letters = Counter(filter(str.isalpha, text[:LOOKED_AT]))
    found: Counter[str] = Counter()
    for sign, times in letters.items():
        found[_alphabet_of(sign)] += times
    if found["Japanese"]:  # Japanese is written in Chinese characters too
        found["Japanese"] += found.pop("Chinese", 0)
    return max(found, key=found.__getitem__, default=OTHER)


def language(text: str) -> str:
    """The language, where the alphabet is Latin and it is clear; else the alphabet."""
    written = alphabet(text)
    if written != "Latin":
        return written
    words = set(re.findall(r"\w+", text[:LOOKED_AT].lower()))
    scores = sorted(((len(words & common), name) for name, common in _WORDS.items()), reverse=True)
    (best, name), (second, _) = scores[0], scores[1]
    return name if best >= max(FEW_WORDS, CLEARLY * second) else written


def is_other(one: str, main: str) -> bool:
    """Whether a text in language or alphabet `one` is clearly not in `main`. Latin letters alone say nothing of which."""
    if one in (main, OTHER):
        return False
    latin = ("Latin", *LANGUAGES)
    return not (one in latin and main in latin and "Latin" in (one, main))
