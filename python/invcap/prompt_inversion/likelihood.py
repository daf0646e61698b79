"""What `log_likelihood` returns: bounds on shared noise samples, with their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invcap.diffusion.noise_samples import standard_error


@dataclass(frozen=True)
class LogLikelihood:
    """Lower bounds of log p(latent | prompt), nats per latent number.

    Attributes:
        prompts: the N prompts.
        terms: (N, M) float64, one for each noise sample; a prompt's bound is their mean.
    """

    prompts: Sequence[str]
    terms: Tensor

    @property
    def bound(self) -> Tensor:
        """The bound of each prompt, (N,)."""
        return self.terms.mean(-1)

    @property
    def standard_error(self) -> Tensor:
        """The standard error of each bound, (N,)."""
        return standard_error(self.terms)

    @property
    def best(self) -> int:
        """Index of the prompt with the highest bound."""
        return int(self.bound.argmax())

    def difference(self, prompt: int, other: int) -> tuple[float, float]:
        """The difference between the bounds of two prompts, and its standard error.

        All prompts share the same noise samples, so sampling error largely cancels in differences:
        the standard error is that of the paired differences.
        """
        paired = self.terms[prompt] - self.terms[other]
        return paired.mean().item(), standard_error(paired).item()

    def rows(self) -> list[dict[str, Any]]:
        """A row for each prompt, in the order given: its bound and its difference to the best."""
        bounds, errors = self.bound.tolist(), self.standard_error.tolist()
        result = []
        for index, prompt in enumerate(self.prompts):
            difference, error = self.difference(index, self.best)
            result.append(
                {
                    "prompt": prompt,
                    "log_likelihood": bounds[index],
                    "standard_error": errors[index],
                    "difference": difference,
                    "difference_standard_error": error,
                }
            )
        return result
