"""Shape annotations: jaxtyping where it is installed, plain tensors on a bare training image."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ImportError:

        class _Unchecked:
            """`Float[Tensor, "b c"]` reads as `Tensor`."""

            def __class_getitem__(cls, item: tuple) -> type:
                return item[0]

        Bool = Float = Int = UInt8 = _Unchecked

__all__ = ["Bool", "Float", "Int", "UInt8"]
