"""Captioning and generating with one invertible network."""

from invcap.captioning.model import Caption, InvertibleCaptioner
from invcap.captioning.train import TrainSettings
from invcap.training.trainer import TrainingDivergedError

__all__ = ["Caption", "InvertibleCaptioner", "TrainSettings", "TrainingDivergedError"]
