"""Training and held-out examples."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from invcap.data.example import Example


def split_by_group(
    examples: Iterable[Example], held_out: float, seed: int
) -> tuple[list[int], list[int]]:
    """Indices of the training examples and of the held-out ones; see `is_held_out`.

    Raises:
        ValueError: `held_out` is not between 0 and 1, or one side has nothing.
    """
    check_share(held_out)
    sides: tuple[list[int], list[int]] = ([], [])
    groups = set()
    for index, example in enumerate(examples):
        sides[is_held_out(example.group, held_out, seed)].append(index)
        groups.add(example.group)
    for side, name in zip(sides, ("training", "held-out"), strict=True):
        if not side:
            raise ValueError(
                f"held_out: no {name} example: {sum(map(len, sides))} examples in {len(groups)} "
                f"groups cannot be split with held_out={held_out} and seed={seed}; expected more "
                "groups, or another share or seed"
            )
    return sides


def is_held_out(group: str, held_out: float, seed: int) -> bool:
    """Whether a hash of (seed, group), read as a number in [0, 1), is less than `held_out`.

    So no group is on both sides, adding examples moves none from one side to the other, and a
    larger share holds out a superset. The share itself is met only on average.
    """
    digest = blake2b(f"{seed}\0{group}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64 < held_out


def check_share(held_out: float) -> None:
    """Raises ValueError unless a share is between 0 and 1."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, got {held_out}")
