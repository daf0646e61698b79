"""Prompt inversion: the prompt most likely to have made a picture, by Stable Diffusion itself."""

from invcap.prompt_inversion.embeddings import load_prompt_embeds, save_prompt_embeds
from invcap.prompt_inversion.inversion import (
    History,
    InversionSettings,
    PromptInversionOutput,
    few_steps,
)
from invcap.prompt_inversion.likelihood import LogLikelihood
from invcap.prompt_inversion.pipeline import PromptInversionPipeline

__all__ = [
    "History",
    "InversionSettings",
    "LogLikelihood",
    "PromptInversionOutput",
    "PromptInversionPipeline",
    "few_steps",
    "load_prompt_embeds",
    "save_prompt_embeds",
]
