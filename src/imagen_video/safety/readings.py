"""A prompt as it may be meant: plain, and with what hides words undone.

Both are read, because undoing damages what was plain: "3D" would become "ed".
"""

# ruff: noqa: RUF001 - letters that look alike are what this is about.
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, product

# Letters of other scripts that look like Latin ones, after case folding.
LOOKALIKES = str.maketrans(
    "авекмнорстухьѕіјԁԛԝһӏгпиэєөүғзбαβγεζηικμνορςστυχωοոօսհցɑɡı",
    "abekmhopctyxbsijdqwhlrnueeoyfebabyeznikuvopcotuxwonouhgagi",
)
# What stands for a letter inside a word, the likeliest first.
STANDS_FOR = {
    "0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "gb", "7": "t", "8": "b",
    "9": "g", "@": "a", "$": "s", "€": "e", "£": "l", "!": "il", "|": "il", "¡": "i",
}  # fmt: skip
# Seen as one letter, read as another: both are tried.
SOUNDS = {"ν": "vn", "п": "np", "р": "pr", "с": "cs", "в": "bv", "η": "nh", "и": "ui", "х": "xh"}
# Invisible, though Unicode calls them letters or symbols.
BLANKS = re.compile("[\u115f\u1160\u3164\uffa0\u2800]")
WORD = re.compile(r"[a-z0-9]+")
BETWEEN = re.compile(r"[._~·•^,:;\\+=#\-–—/'’\"()\[\]{}<>`´&]+")
EDGES = ".,;:?'’\"()[]{}<>-–—_/~`´…"
WIDE = re.compile(r"(?<=\S\s\S)\s{2,}(?=\S\s\S)")
"""The space between two words in single letters."""
MEASURE = re.compile(r"\d+(?:[dkpsxmg]|st|nd|rd|th|mm|cm|km|kg|am|pm|hz|fps|px|mb|gb)")
LETTER = re.compile(
    r".*(?:LATIN|REGIONAL INDICATOR).* LETTER (?:SMALL CAPITAL )?([A-Z])(?: WITH .*)?"
)
MOST = 64
"""Ways to read one hidden word that are tried."""
SPELLED = 5
"""Letters of a word, at least, that is looked for among others in a row of single letters."""


@dataclass(frozen=True)
class Reading:
    """Text, and what each of its words may be."""

    text: str
    words: tuple[frozenset[str], ...]


def readings(prompt: str) -> list[Reading]:
    """The plain reading and, where it differs, the one with hidden words undone."""
    seen = visible(prompt)
    plain = seen.translate(LOOKALIKES)
    found = [Reading(plain, tuple(frozenset((word,)) for word in WORD.findall(plain)))]
    texts, words = [], []
    for meant in _undone(seen):
        texts.append(meant[0])
        hidden = len(meant) > 1 or "*" in meant[0]
        words += [frozenset(meant)] if hidden else map(_one, WORD.findall(meant[0]))
    undone = Reading(" ".join(texts), tuple(words))
    return found if undone.words == found[0].words else [*found, undone]


def visible(prompt: str) -> str:
    """Folded to small letters without marks; what cannot be seen is gone."""
    text = unicodedata.normalize("NFKC", BLANKS.sub("", prompt)).casefold()
    text = unicodedata.normalize("NFD", "".join(map(_latin, text)))
    hidden = ("Mn", "Me", "Cf", "Cc")
    return "".join(c for c in text if c.isspace() or unicodedata.category(c) not in hidden)


def scripts(prompt: str) -> list[str]:
    """The script of every letter: LATIN, CYRILLIC, CJK, ..."""
    text = unicodedata.normalize("NFKC", BLANKS.sub("", prompt))
    return [unicodedata.name(c, "UNKNOWN").split()[0] for c in text if c.isalpha()]


@lru_cache(4096)
def _latin(letter: str) -> str:
    """ASCII of a Latin letter in fancy dress: ø, ʟ, 🅝; others as they are."""
    if letter.isascii():
        return letter
    match = LETTER.fullmatch(unicodedata.name(letter, ""))
    return match[1].lower() if match else letter


def _one(word: str) -> frozenset[str]:
    return frozenset((word,))


def _undone(seen: str) -> Iterator[list[str]]:
    """Word by word what may be meant, the likeliest first; a word that hides nothing is itself."""
    for part in WIDE.split(seen):
        tokens = [_core(token) for token in part.split()]
        start = 0
        while start < len(tokens):
            stop = start
            while stop < len(tokens) and len(tokens[stop]) == 1 and _readable(tokens[stop]):
                stop += 1
            if stop - start >= 3:
                yield _spelled("".join(tokens[start:stop]))
            else:
                stop = start + 1
                yield _meant(tokens[start])
            start = stop


def _core(token: str) -> str:
    """Without the punctuation around it; a star in front is Markdown."""
    return token.strip(EDGES + "*").rstrip("!|") or token


def _readable(letter: str) -> bool:
    return letter.isalnum() or letter in STANDS_FOR


def _spelled(letters: str) -> list[str]:
    """A row of single letters: a word, one after "a" or "I", or one among others."""
    whole = _meant(letters)
    later = [word[1:] for word in whole if word[0] in "ai"]
    parts = {
        word[i:j]
        for word in whole[:4]
        for i in range(len(word) - SPELLED + 1)
        for j in range(i + SPELLED, min(len(word), i + 20) + 1)
    }
    return [*whole, *later, *sorted(parts)]


def _meant(token: str) -> list[str]:
    """What a token may be: its separators dropped and its stand-ins read, or itself."""
    pieces = [piece for piece in BETWEEN.split(token) if piece]
    spaced = len(pieces) > 1 and (
        any(len(piece) == 1 for piece in pieces) or not re.search(r"[-–—/'’&]", token)
    )
    word = "".join(pieces) if spaced else token
    hides = any(c in STANDS_FOR for c in word) and any(c.isalpha() for c in word)
    odd = "*" in word or any(c in SOUNDS for c in word)
    if not (spaced or odd or hides) or MEASURE.fullmatch(word):
        return [token.translate(LOOKALIKES)]
    options = (SOUNDS.get(c) or STANDS_FOR.get(c) or c.translate(LOOKALIKES) for c in word)
    return ["".join(letters) for letters in islice(product(*options), MOST)]
