"""Return on investment: a model of an arm's money, and what can be read off it.

`model` prices an arm; `crossing` finds break-evens, `sensitivity` tornado and flip points,
`uncertainty` chances and the worth of knowing more, on that same model; `assess` calls them all.
"""

from domainlm.evaluation.roi import words
from domainlm.evaluation.roi.assess import NONE, PEOPLE, Settings, assess, priced
from domainlm.evaluation.roi.crossing import break_evens
from domainlm.evaluation.roi.model import Arm, Scenario, bill, monthly_usd
from domainlm.evaluation.roi.sensitivity import INPUTS, Place
from domainlm.evaluation.roi.uncertainty import Sample, sample_of

__all__ = [
    "INPUTS",
    "NONE",
    "PEOPLE",
    "Arm",
    "Place",
    "Sample",
    "Scenario",
    "Settings",
    "assess",
    "bill",
    "break_evens",
    "monthly_usd",
    "priced",
    "sample_of",
    "words",
]
