"""Words and phrases that a policy denies, found in every reading of a prompt."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from imagen_video.safety.policy import Policy
from imagen_video.safety.readings import WORD, Reading, readings
from imagen_video.safety.refusal import Refusal

PROFANITY = "profanity"


@dataclass(frozen=True)
class Term:
    """Words in a row; without a category they are allowed."""

    words: tuple[str, ...]
    category: str | None


@dataclass(frozen=True)
class Place:
    """Where a term was found: the words from `start` to before `stop`."""

    start: int
    stop: int
    category: str | None

    def holds(self, other: "Place") -> bool:
        return self.start <= other.start and other.stop <= self.stop


class Terms:
    """The check that looks for the terms of a policy and the word list of better-profanity.

    What is denied is overlooked where it lies inside something allowed: "killer" in "killer whale".
    """

    def __init__(self, policy: Policy):
        self.categories = [*policy.deny, *({PROFANITY} - set(policy.deny))]
        self._starting: dict[str, list[Term]] = defaultdict(list)
        self._shaped: dict[str, set[str]] = defaultdict(set)
        for term in _terms(policy):
            self._starting[term.words[0]].append(term)
            for word in term.words:
                self._shaped[_squeezed(word)].add(word)
        single = [term for terms in self._starting.values() for term in terms if not term.words[1:]]
        allowed = {term.words[0] for term in single if term.category is None}
        self._denied_words = {term.words[0] for term in single} - allowed

    def __call__(self, prompt: str) -> Refusal | None:
        found = {place.category for r in readings(prompt) for place in self._denied(r)}
        for category in self.categories:
            if category in found:
                lists = "the policy"
                if category == PROFANITY:
                    lists = "the policy, or the list of better-profanity,"
                return Refusal(category, f"it holds a term that {lists} denies")
        return None

    def _denied(self, reading: Reading) -> list[Place]:
        known = [self._known(word) for word in reading.words]
        places = list(self._places(known))
        allowed = [place for place in places if place.category is None]
        denied = (place for place in places if place.category is not None)
        return [place for place in denied if not any(a.holds(place) for a in allowed)]

    def _places(self, known: list[set[str]]) -> Iterator[Place]:
        for start, first in enumerate(known):
            for term in (term for word in first for term in self._starting.get(word, ())):
                stop = start + len(term.words)
                if stop <= len(known) and all(
                    word in known[start + i] for i, word in enumerate(term.words)
                ):
                    yield Place(start, stop, term.category)

    def _known(self, word: Iterable[str]) -> set[str]:
        """The words of terms that this one is, stretched ("nuuude"), starred or in the plural."""
        found: set[str] = set()
        for form in word:
            if "*" in form:
                found |= self._starred(form)
            for single in {form, form.removesuffix("s")}:
                near = self._shaped.get(_squeezed(single), ())
                found |= {known for known in near if _stretches(single, known)}
        return found

    def _starred(self, form: str) -> set[str]:
        """The denied words that "f*ck" may be, if it shows two letters of them."""
        if sum(c.isalpha() for c in form) < 2:
            return set()
        pattern = re.compile(re.escape(form).replace(r"\*", "[a-z]"))
        return {word for word in self._denied_words if pattern.fullmatch(word)}


def _terms(policy: Policy) -> Iterator[Term]:
    for text in policy.allow:
        yield Term(tuple(WORD.findall(text)), None)
    for category, texts in policy.deny.items():
        for text in texts:
            yield Term(tuple(WORD.findall(text)), category)
    for words in _word_list():
        yield Term(words, PROFANITY)


@cache
def _word_list() -> list[tuple[str, ...]]:
    """better-profanity's words, but for those written with signs, which `readings` undoes."""
    try:
        from better_profanity.utils import get_complete_path_of_file, read_wordlist
    except ImportError:
        raise ValueError(
            "the prompt filter needs better-profanity: pip install 'imagen-video[safety]'"
        ) from None
    words = read_wordlist(get_complete_path_of_file("profanity_wordlist.txt"))
    plain = (word.lower() for word in words if re.fullmatch(r"[A-Za-z0-9 -]+", word))
    return [tuple(WORD.findall(word)) for word in plain]


def _squeezed(word: str) -> str:
    return "".join(letter for letter, _ in groupby(word))


def _stretches(form: str, word: str) -> bool:
    """Whether a form of the same letters has each at least as often in a row."""
    pairs = zip(groupby(form), groupby(word), strict=True)
    return all(len(list(a)) >= len(list(b)) for (_, a), (_, b) in pairs)
