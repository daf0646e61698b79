"""Results of `invcap_ext.selfcheck`: one block to paste into a report, or JSON."""

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
        rows: rows of the batch.
        arithmetic: the dtype, or "tf32x3" for float32 as three TF32 products.
        error: largest error, relative to the largest element.
        sound: whether the error is within the tolerance.
        kernel_ms: median milliseconds of the kernel.
        peer_ms: median milliseconds of a dense layer with a stored weight, or of torch's operators.
        formed_ms: median milliseconds of a dense layer that computes its weight L U at each call;
            None if there is no such peer.
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
    """The number of rows from which a dense product is faster that computes L U at each call.

    Attributes:
        kernel: the operation.
        n: size of a row.
        arithmetic: see `Outcome`.
        dense_from: the smallest batch such that it was faster at this and all larger batches; None
            if there is none.
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
    """Returns the threshold of each operation, size and arithmetic that has `formed_ms`."""
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
    """All results of one run.

    Attributes:
        machine: the device and the versions.
        outcomes: one for each kernel and size.
        situations: "ok", "not run: ..." or "WRONG: ..." by name.
        thresholds: recommendations from the times.
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
                "A dense product that computes its weight at each call is faster:",
                *map(str, self.thresholds),
                "```",
            ]
        )

    def json(self) -> str:
        """The same, with `sound` beside it."""
        return json.dumps({"sound": self.sound} | asdict(self), indent=1)
