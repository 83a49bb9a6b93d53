"""Rows that are nearly the same: MinHash of word triples, with buckets so that few pairs are compared.

After A. Broder, On the resemblance and containment of documents (1997). numpy only.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

HASHES = 64  # the estimate of a similarity of 0.85 is then off by 0.045 (one standard deviation, sqrt(s(1-s)/64))
BANDS = 16  # of 4 hashes each: a pair with similarity 0.85 meets in some bucket with 99.999 %, one with 0.3 with 12 %
NEARLY = 0.85  # similarity of two rows that are called near copies (judgement)
SHINGLE = 3  # words
MOST_IN_BUCKET = 200  # rows that are compared with each other; more are compared with the first only
_PRIME = np.uint64((1 << 31) - 1)
_RANDOM = np.random.default_rng(0)
_A = _RANDOM.integers(1, int(_PRIME), size=(HASHES, 1), dtype=np.uint64)
_B = _RANDOM.integers(0, int(_PRIME), size=(HASHES, 1), dtype=np.uint64)
# A letter of a script without spaces between words counts as a word.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|\w+")


def signature(text: str) -> np.ndarray:
    """The MinHash of a text: uint64 [HASHES]. Texts of the same words, capitals and signs aside, have the same."""
    words = np.array(
        [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in _WORDS.findall(text.lower())], dtype=np.uint64
    )
    if len(words) == 0:
        return np.full(HASHES, _PRIME, dtype=np.uint64)
    if len(words) >= SHINGLE:
        # Three words as one number, the order counting; products stay below 2^64.
        words = (words[:-2] % _PRIME * np.uint64(31) + words[1:-1] % _PRIME * np.uint64(17) + words[2:] % _PRIME) % _PRIME
    words = np.unique(words % _PRIME)
    return ((_A * words + _B) % _PRIME).min(axis=1)


def near_copies(texts: Iterable[str], nearly: float = NEARLY) -> list[tuple[int, int]]:
    """(row, the first row that it nearly copies) for each row that does; exact copies are among them."""
    signatures = [signature(text) for text in texts]
    copies: dict[int, int] = {}
    for bucket in _buckets(signatures):
        for place, row in enumerate(bucket[1:], start=1):
            earlier = bucket[:place] if place <= MOST_IN_BUCKET else bucket[:1]
            first = next(
                (one for one in earlier if one not in copies and alike(signatures[one], signatures[row]) >= nearly), None
            )
            if first is not None and first < copies.get(row, row):
                copies[row] = first
    return sorted(copies.items())


def alike(one: np.ndarray, two: np.ndarray) -> float:
    """The estimated share of word triples that two texts have in common."""
    return float((one == two).mean())


def _buckets(signatures: Sequence[np.ndarray]) -> Iterable[list[int]]:
    """Rows that agree in all hashes of some band, in the order of the rows."""
    width = HASHES // BANDS
    for band in range(BANDS):
        rows: defaultdict[bytes, list[int]] = defaultdict(list)
        for row, found in enumerate(signatures):
            rows[found[band * width : (band + 1) * width].tobytes()].append(row)
        yield from (bucket for bucket in rows.values() if len(bucket) > 1)
