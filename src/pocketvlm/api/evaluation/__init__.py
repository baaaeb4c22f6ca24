"""`evaluate()` answers the questions of a data set and scores the answers, with or without a baseline."""

from pocketvlm.api.evaluation.result import Answer, Evaluation, ScoredSample, Summary
from pocketvlm.api.evaluation.run import evaluate

__all__ = ["Answer", "Evaluation", "ScoredSample", "Summary", "evaluate"]
