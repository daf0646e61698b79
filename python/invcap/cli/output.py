"""How commands print: results to standard output, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import typer


def print_result(text: str, result: Iterable[Any], as_json: bool) -> None:
    """Prints a result as JSON and nothing else, or as text."""
    typer.echo(json.dumps(result, indent=2, ensure_ascii=False) if as_json else text)


def print_metrics(metrics: dict[str, Any], as_json: bool) -> None:
    """Prints the metrics of a captioner."""
    caption, generation = metrics["caption"], metrics["generation"]
    text = (
        f"caption:    MSE {caption['mse']:.4f}, R@1 {caption['r_at_1']:.3f}, "
        f"R@10 {caption['r_at_10']:.3f}\n"
        f"generation: MSE {generation['latent_mse']:.4g}, R@1 {generation['r_at_1']:.3f}, "
        f"R@10 {generation['r_at_10']:.3f}\n"
        f"round trip: {metrics['round_trip']['max_abs_error']:.1e}"
    )
    if "writer" in metrics:
        written, nearest = (metrics["writer"][name] for name in ("written", "nearest"))
        text += (
            f"\nwriter:     BLEU {written['bleu']:.1f} (nearest sentence {nearest['bleu']:.1f}), "
            f"similarity {written['similarity']:.3f} ({nearest['similarity']:.3f}), "
            f"new {metrics['writer']['share_new']:.3f}"
        )
    print_result(text, [metrics], as_json)
