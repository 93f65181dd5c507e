"""The trainer: runs the stages of a method, can be killed at any moment and goes on where it was."""

from blemish.training.checkpoint import RunFolder
from blemish.training.images import TrainingImages
from blemish.training.trainer import Progress, Trainer

__all__ = ["Progress", "RunFolder", "Trainer", "TrainingImages"]
