"""Learning rates as pure functions of the step: nothing to checkpoint."""

from __future__ import annotations

import math


def warmup_constant(step: int, peak: float, warmup_steps: int) -> float:
    """Linear to `peak` over `warmup_steps`, then constant: the RL stages. `step` counts from 0."""
    return peak * min((step + 1) / warmup_steps, 1.0) if warmup_steps else peak


def warmup_cosine(step: int, total: int, peak: float, warmup_ratio: float, final_ratio: float) -> float:
    """Linear warm-up over a share of the steps, then cosine to `final_ratio` x peak (v2 B.4.2: 5e-5 to 5e-6)."""
    warmup = int(total * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup - 1, 1)
    return peak * (final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
