"""Frozen feature pyramids and where their weights come from. Nothing here touches a network."""

from blemish.teachers.pyramid import FeaturePyramid, Pyramid, open_teacher, pooled_tokens
from blemish.teachers.weights import DEFAULT_TEACHER, TeacherListing, list_teachers

__all__ = [
    "DEFAULT_TEACHER",
    "FeaturePyramid",
    "Pyramid",
    "TeacherListing",
    "list_teachers",
    "open_teacher",
    "pooled_tokens",
]
