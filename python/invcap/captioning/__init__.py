"""Captioning and generating with one invertible network."""

from invcap.captioning.model import Caption, InvertibleCaptioner
from invcap.captioning.train import TrainingDivergedError, TrainSettings

__all__ = ["Caption", "InvertibleCaptioner", "TrainSettings", "TrainingDivergedError"]
