"""Prompt inversion: scores prompts by likelihood and finds the most likely one."""

from invcap.prompt_inversion.embeddings import load_prompt_embeds, save_prompt_embeds
from invcap.prompt_inversion.likelihood import LogLikelihood
from invcap.prompt_inversion.output import History, PromptInversionOutput
from invcap.prompt_inversion.pipeline import PromptInversionPipeline
from invcap.prompt_inversion.settings import InversionSettings, few_steps

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
