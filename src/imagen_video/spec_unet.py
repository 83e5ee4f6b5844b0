"""The network of a stage as data, and how specs check themselves when built."""

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


def require(condition: bool, message: str) -> None:
    """ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_known_words(spec: Any) -> None:
    """ValueError where a field of a spec is none of the words that its type lists."""
    for name, kind in get_type_hints(type(spec)).items():
        words, word = get_args(kind), getattr(spec, name)
        require(
            get_origin(kind) is not Literal or word in words,
            f"{name} must be one of {', '.join(map(str, words))}, got {word!r}",
        )


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """One video U-Net (paper section 2). Level 0 is the finest; the last level is the middle.

    `widths` and `blocks` have one entry a level. `attention_levels` have spatial self-attention
    with the text's keys and values joined in, `cross_levels` cross-attention to the text alone.
    `temporal` mixes frames after every block of `temporal_levels`. `patch` folds p x p pixels into
    channels before the first convolution. `norm="layer"` does not see how large the frame is. A
    network `guided` from the least to the most weight has learned guidance: it is told a weight,
    and answers as its teacher does under that guidance. With a `side` it is its teacher, and a
    network of so many channels beside it answers with the direction that the weight multiplies.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    temporal: Literal["attention", "conv"]
    temporal_levels: tuple[int, ...]
    attention_levels: tuple[int, ...] = ()
    cross_levels: tuple[int, ...] = ()
    patch: int = 1
    head_dim: int = 64
    embed_dim: int = 256
    text_dim: int = 384
    norm: Literal["group", "layer"] = "group"
    predicts: Literal["v", "x", "eps"] = "v"
    guided: tuple[float, float] | None = None
    side: int | None = None

    def __post_init__(self):
        require_known_words(self)
        levels = set(range(len(self.widths)))
        require(
            len(self.widths) == len(self.blocks) > 0,
            f"widths {self.widths} and blocks {self.blocks} need one entry a level each",
        )
        for name in ("temporal_levels", "attention_levels", "cross_levels"):
            require(
                set(getattr(self, name)) <= levels,
                f"{name} {getattr(self, name)} must lie in 0..{len(levels) - 1}",
            )
        both = set(self.attention_levels) & set(self.cross_levels)
        require(not both, f"levels {sorted(both)} have self-attention: drop them in cross_levels")
        for name in ("patch", "head_dim", "text_dim"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        require(min(self.blocks) >= 1, f"every level needs a block, got blocks {self.blocks}")
        for level in self.attention_levels + self.cross_levels:
            require(
                self.widths[level] % self.head_dim == 0,
                f"width {self.widths[level]} of level {level} must be a multiple of "
                f"head_dim {self.head_dim}",
            )
        heads = max(1, self.embed_dim // self.head_dim)
        require(
            self.embed_dim > 0 and self.embed_dim % 2 == 0 and self.embed_dim % heads == 0,
            f"embed_dim {self.embed_dim} must be even and a multiple of its {heads} heads of "
            f"head_dim {self.head_dim}",
        )
        for width in self.widths:
            require(width % 8 == 0, f"widths must be multiples of 8, got {width}")
        require(
            self.side is None or (self.side > 0 and self.side % 8 == 0),
            f"side must be a multiple of 8 above 0, got {self.side}",
        )
        require(
            self.side is None or self.guided is not None,
            "a side network is multiplied by a weight of guidance: say in guided which are learned",
        )

    @property
    def takes_negative(self) -> bool:
        """Whether it can be called without guidance, and so be guided by two calls."""
        return self.guided is None or self.side is not None

    @property
    def multiple(self) -> int:
        """Height and width of a video must be multiples of this."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def temporal_reach(self) -> int:
        """How many frames to each side one output frame depends on (convolutions only)."""
        require(self.temporal == "conv", "temporal attention reaches every frame")
        last = len(self.widths) - 1
        return sum(self.blocks[i] * (1 if i == last else 2) for i in self.temporal_levels)
