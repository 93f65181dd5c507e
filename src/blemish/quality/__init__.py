"""What is wrong with a dataset, before anybody trains on it.

Nothing here needs torch: what a teacher sees is passed in.
"""

from blemish.quality.checking import Check, check
from blemish.quality.findings import Case, Finding, Severity
from blemish.quality.report import write_quality_report

__all__ = ["Case", "Check", "Finding", "Severity", "check", "write_quality_report"]
