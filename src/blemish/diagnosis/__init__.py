"""Why a model finds what it finds: what leaks through its student, and what its embedding and its scores keep apart."""

from blemish.diagnosis.diagnosing import Diagnosis, diagnose
from blemish.diagnosis.report import write_diagnosis

__all__ = ["Diagnosis", "diagnose", "write_diagnosis"]
