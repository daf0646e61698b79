"""What families of flow-matching transformers have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.flow_schedule import FlowSchedule
from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.schedule import Schedule


class FlowMatching(FrozenTextToImage):
    """A transformer on 2 x 2 patches of latents that predicts v, the velocity towards the noise."""

    schedule_class: ClassVar[type[Schedule]] = FlowSchedule
    schedule: FlowSchedule

    @abstractmethod
    def predict_velocity(self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """v in N noisy latents, differentiable by the conditioning.

        Args:
            noisy: (N, C, h, w), of the denoiser's dtype.
            sigma: s, (N,) float32.
            conditioning: of N prompts, of the denoiser's dtype.

        Returns:
            (N, C, h, w).
        """

    @property
    def denoiser(self) -> Any:
        return self.pipeline.transformer

    @property
    def size_unit(self) -> int:
        return 2 * self.pixels_per_latent

    def predict_noise(self, noisy: Tensor, steps: Tensor, conditioning: Conditioning) -> Tensor:
        schedule = self.schedule.to(noisy.device)
        predicted = self.predict_velocity(
            noisy.to(self.dtype),
            schedule.sigma(steps).float(),
            conditioning.map(lambda tensor: tensor.to(self.dtype)),
        )
        return schedule.noise_of(predicted.to(noisy.dtype), noisy, steps)
