"""Rewards: text in, a verdict out, never a bare float (design §6, docs/decisions/0003-verdicts.md).

`combine.Scorer` is the door. `response` finds the thought and the answer, `accuracy`, `code` and `general` judge the answer,
every module with a `REWARD` (and no `_` before its name) is one part of the sum and is found by `registry` alone, `counter` counts verdicts,
`behaviour` measures reflection, verification, backtracking and language without judging.
"""
