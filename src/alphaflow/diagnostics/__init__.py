"""The effect of the objective's parts on a network: their gradients, how these agree, and the losses over
times."""

from .files import write
from .measure import Subject, diagnose, open_subject
from .record import Diagnosis, Summary, read_all

__all__ = ["Diagnosis", "Subject", "Summary", "diagnose", "open_subject", "read_all", "write"]
