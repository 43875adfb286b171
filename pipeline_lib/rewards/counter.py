"""Counts verdicts and raises the alarm when too many samples are masked (design §6).

Peers trained for days on all-zero rewards because a verifier's silent timeout looked like a wrong answer. Here
what the verifier could not judge is masked, counted, logged, and warned about.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable

from pipeline_lib.types import Outcome, Verdict

_log = logging.getLogger(__name__)


class VerdictCounter:
    """Counts outcomes since it was made. `alarm_share` is the masked share above which `add` warns. Thread-safe."""

    def __init__(self, alarm_share: float = 0.05, minimum: int = 20) -> None:
        self._alarm_share, self._minimum = alarm_share, minimum
        self._counts: Counter[Outcome] = Counter()
        self._last_detail = ""
        self._lock = threading.Lock()

    def add(self, verdicts: Iterable[Verdict]) -> bool:
        """Count a batch. Returns True, and logs a warning, when the batch's masked share is above the alarm."""
        batch: Counter[Outcome] = Counter()
        detail = ""
        for verdict in verdicts:
            batch[verdict.outcome] += 1
            if not verdict.outcome.is_signal:
                detail = f"{verdict.outcome}: {verdict.detail or verdict.extracted or ''}"[:300]
        with self._lock:
            self._counts += batch
            self._last_detail = detail or self._last_detail
        total, masked = batch.total(), _masked(batch)
        alarm = total >= self._minimum and masked > self._alarm_share * total
        if alarm:
            _log.warning(
                "the verifier could not judge %d of %d samples (alarm above %.0f%%); last: %s",
                masked,
                total,
                100 * self._alarm_share,
                detail,
            )
        return alarm

    @property
    def total(self) -> int:
        """Verdicts counted."""
        return self._counts.total()

    @property
    def masked_share(self) -> float:
        """Share of all verdicts that are not learning signal; 0 before the first."""
        return _masked(self._counts) / self.total if self.total else 0.0

    def counts(self) -> dict[str, int]:
        """Every outcome's count, in the order of `Outcome`, zeros included."""
        return {outcome.value: self._counts[outcome] for outcome in Outcome}

    @property
    def last_masked(self) -> str:
        """Evidence of the latest masked sample, for a log line; empty when there was none."""
        return self._last_detail


def _masked(counts: Counter[Outcome]) -> int:
    return sum(count for outcome, count in counts.items() if not outcome.is_signal)
