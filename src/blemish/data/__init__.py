"""Datasets: samples, the layouts they lie in, masks, and a made-up product line."""

from __future__ import annotations

from blemish.data.files import list_images
from blemish.data.layout import combine, layouts, open_categories, open_dataset
from blemish.data.layout.mvtec_loco import loco_regions
from blemish.data.masks import read_mask, true_mask
from blemish.data.samples import Dataset, Label, MaskRule, Sample, Split

__all__ = [
    "Dataset",
    "Label",
    "MaskRule",
    "Sample",
    "Split",
    "combine",
    "layouts",
    "list_images",
    "loco_regions",
    "open_categories",
    "open_dataset",
    "read_mask",
    "true_mask",
]
