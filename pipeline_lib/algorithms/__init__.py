"""Objectives as pure tensor functions: torch in, torch out; no IO, no distribution, no model.

Shape names: N problems, G completions a problem, B = rows of a micro-batch, T = completion tokens (padded).
A mask is True on real completion tokens. Losses are sums divided by the *whole batch's* totals
(`aggregation.Totals`), so that micro-batches add up to exactly the loss of the undivided batch.
"""
