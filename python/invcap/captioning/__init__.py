"""Captioning and generating with one invertible network."""

from invcap.captioning.caption import Caption
from invcap.captioning.model import InvertibleCaptioner
from invcap.captioning.train import TrainSettings
from invcap.training.trainer import TrainingDivergedError

__all__ = ["Caption", "InvertibleCaptioner", "TrainSettings", "TrainingDivergedError"]
