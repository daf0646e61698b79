"""Captions from an image-to-text model of transformers, as candidates for prompts in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from invcap.phrases import clauses, compositions


@dataclass(frozen=True)
class Proposal:
    """A sentence that may describe an image.

    Attributes:
        text: the sentence.
    """

    text: str


class Proposer:
    """An image-to-text model such as BLIP, Florence or a vision-language model.

    Args:
        name: folder or hub name, which `AutoModelForImageTextToText` loads.
        prompt: text input beside the image, for models that take one.
        beams: number of captions from beam search.
        samples: number of further captions, sampled at random.
        max_new_tokens: length limit of a caption.
        seed: seed of the samples.

    Raises:
        ValueError: the model cannot be loaded, or `beams` and `samples` are both 0.
    """

    def __init__(
        self,
        name: str,
        prompt: str = "",
        beams: int = 8,
        samples: int = 0,
        max_new_tokens: int = 40,
        seed: int = 0,
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if min(beams, samples) < 0 or not beams + samples:
            raise ValueError(
                f"beams and samples must not be negative nor both 0, got {beams} and {samples}"
            )
        try:
            self.processor = AutoProcessor.from_pretrained(name)
            self.model = AutoModelForImageTextToText.from_pretrained(name).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"proposer: {name} is neither a folder nor an image-to-text model that loads: "
                f"{reason}"
            ) from error
        self.prompt, self.beams, self.samples = prompt, beams, samples
        self.max_new_tokens, self.seed = max_new_tokens, seed

    def to(self, device: torch.device | str) -> Proposer:
        """Moves the model to a device, in place."""
        self.model.to(device)
        return self

    def compose(self, images: Sequence[Image.Image], top_k: int = 64) -> list[list[Proposal]]:
        """For each image: captions, then new combinations of their parts, then their clauses."""
        found = []
        for image in images:
            said = self.captions(image)
            every = [
                *said,
                *compositions(said, said),
                *(part for one in said for part in clauses(one)),
            ]
            found.append([Proposal(text) for text in dict.fromkeys(every)][:top_k])
        return found

    @torch.no_grad()
    def captions(self, image: Image.Image) -> list[str]:
        """The model's captions of one image without duplicates, likelier beams first."""
        inputs, told = self._inputs(image)
        found: list[str] = []
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for count, how in (
                (self.beams, {"num_beams": self.beams, "do_sample": False}),
                (self.samples, {"num_beams": 1, "do_sample": True}),
            ):
                if count:
                    ids = self.model.generate(
                        **inputs,
                        **how,
                        num_return_sequences=count,
                        max_new_tokens=self.max_new_tokens,
                    )
                    found += self._read(ids[:, told:])
        return [text for text in dict.fromkeys(found) if text]

    def _inputs(self, image: Image.Image) -> tuple[Any, int]:
        """Inputs of the model's `generate`, and how many input tokens its output repeats."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image", "image": image}, {"type": "text", "text": self.prompt}]
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            told = inputs["input_ids"].shape[1]
        else:
            text = {"text": self.prompt} if self.prompt else {}
            inputs, told = self.processor(images=image, return_tensors="pt", **text), 0
        return inputs.to(self.model.device), told

    def _read(self, ids: Tensor) -> list[str]:
        texts = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]
