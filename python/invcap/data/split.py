"""Training and held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from invcap.data.example import Example


def split_by_group(
    examples: Sequence[Example], held_out: float, seed: int
) -> tuple[list[int], list[int]]:
    """Indices of the training examples and of the held-out ones.

    A group is held out where a hash of (seed, group), read as a number in [0, 1), is less than
    `held_out`. So no group is in both, adding examples moves none from one side to the other, and
    a larger share holds out a superset. The share itself is met only on average.

    Raises:
        ValueError: `held_out` is not between 0 and 1, or one side has nothing.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, got {held_out}")
    sides: tuple[list[int], list[int]] = ([], [])
    for index, example in enumerate(examples):
        sides[_position(seed, example.group) < held_out].append(index)
    for side, name in zip(sides, ("training", "held-out"), strict=True):
        if not side:
            groups = len({example.group for example in examples})
            raise ValueError(
                f"held_out: no {name} example: {len(examples)} examples in {groups} groups cannot "
                f"be split with held_out={held_out} and seed={seed}; expected more groups, or "
                "another share or seed"
            )
    return sides


def _position(seed: int, group: str) -> float:
    digest = blake2b(f"{seed}\0{group}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64
