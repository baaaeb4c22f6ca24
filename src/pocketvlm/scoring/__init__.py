"""Scores of answers: metrics of texts and boxes, confidence intervals, paired differences."""
