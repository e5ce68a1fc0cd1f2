"""Scoring, costs and the decision: answers in; summaries, contrasts, ROI and a verdict out."""
