"""What `invcap_ext.selfcheck` found: one block to paste into a report, or JSON."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Outcome:
    """One kernel at one size.

    Attributes:
        kernel: the operation.
        n: size of a row.
        rows: of the batch.
        arithmetic: the dtype, or "tf32x3" for float32 as three TF32 products.
        error: relative to the largest element.
        sound: whether the error is small enough.
        kernel_ms: median milliseconds.
        peer_ms: those of a dense layer whose weight is kept, or of torch's own operators.
        formed_ms: those of a dense layer whose weight is made from L and U at each call; None
            where there is no such peer.
    """

    kernel: str
    n: int
    rows: int
    arithmetic: str
    error: float
    sound: bool
    kernel_ms: float
    peer_ms: float
    formed_ms: float | None = None

    def __str__(self) -> str:
        formed = "" if self.formed_ms is None else f"{self.formed_ms:.4f}"
        return (
            f"{self.kernel:<16} {self.arithmetic:<8} {self.n:>5} {self.rows:>6}"
            f" {self.error:8.1e} {'ok' if self.sound else 'WRONG':<5} {self.kernel_ms:9.4f}"
            f" {self.peer_ms:9.4f} {self.kernel_ms / self.peer_ms:6.2f} {formed:>9}"
        )


HEADER = (
    f"{'kernel':<16} {'dtype':<8} {'n':>5} {'rows':>6} {'error':>8} {'':<5}"
    f" {'ms':>9} {'peer ms':>9} {'times':>6} {'formed ms':>9}"
)


@dataclass(frozen=True)
class Recommendation:
    """From how many rows on a dense product pays that makes its weight at each call.

    Attributes:
        kernel: the operation.
        n: size of a row.
        arithmetic: as of an Outcome.
        dense_from: the smallest timed batch from which on it was faster; None if at none.
        timed: the batches that were timed.
    """

    kernel: str
    n: int
    arithmetic: str
    dense_from: int | None
    timed: tuple[int, ...]

    def __str__(self) -> str:
        batches = ", ".join(map(str, self.timed))
        where = "nowhere" if self.dense_from is None else f"from {self.dense_from} rows on"
        return f"{self.kernel}, {self.arithmetic}, n = {self.n}: dense {where} (of {batches})"


def recommendations(outcomes: Sequence[Outcome]) -> list[Recommendation]:
    """Returns the threshold of each operation, size and arithmetic that has a formed peer."""
    series: dict[tuple[str, int, str], dict[int, bool]] = defaultdict(dict)
    for one in outcomes:
        if one.formed_ms is not None:
            faster = one.formed_ms < one.kernel_ms
            series[one.kernel, one.n, one.arithmetic][one.rows] = faster
    found = []
    for (kernel, n, arithmetic), by_rows in series.items():
        dense_from = None
        for rows in sorted(by_rows, reverse=True):
            if not by_rows[rows]:
                break
            dense_from = rows
        found.append(Recommendation(kernel, n, arithmetic, dense_from, tuple(sorted(by_rows))))
    return found


@dataclass(frozen=True)
class Report:
    """Everything that one run found.

    Attributes:
        machine: what the figures depend on.
        outcomes: of every kernel at every size.
        situations: "ok", "not run: ..." or "WRONG: ..." by name.
        thresholds: what the times recommend.
    """

    machine: dict[str, str | int]
    outcomes: list[Outcome]
    situations: dict[str, str]
    thresholds: list[Recommendation]

    @property
    def sound(self) -> bool:
        situations = not any(result.startswith("WRONG") for result in self.situations.values())
        return situations and all(one.sound for one in self.outcomes)

    def block(self) -> str:
        """Markdown to paste: one fenced block."""
        verdict = "every kernel agrees with float64" if self.sound else "something is WRONG"
        return "\n".join(
            [
                "```",
                "invcap_ext.selfcheck: " + verdict,
                *(f"{name}: {value}" for name, value in self.machine.items()),
                "",
                HEADER,
                *map(str, self.outcomes),
                "",
                *(f"{name}: {result}" for name, result in self.situations.items()),
                "",
                "A dense product that makes its weight at each call is faster:",
                *map(str, self.thresholds),
                "```",
            ]
        )

    def json(self) -> str:
        """The same, with `sound` beside it."""
        return json.dumps({"sound": self.sound} | asdict(self), indent=1)
