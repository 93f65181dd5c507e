"""A detector at work on a dataset: figures, and reports that a person wants to look at."""

from blemish.evaluation.judging import Evaluation, Judged, Share, evaluate
from blemish.evaluation.report import write_inspection_report, write_report

__all__ = ["Evaluation", "Judged", "Share", "evaluate", "write_inspection_report", "write_report"]
