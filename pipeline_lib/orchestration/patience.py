"""Waiting for an object store that is away: exponential backoff with jitter, up to a limit.

botocore's own retries cover seconds (a busy server, a lost connection). This covers minutes: a restart, an upgrade, a network that
is mended. A hundred nodes that lost the same server must not come back in the same second: every pause is drawn
from half of the backoff to all of it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipeline_lib.errors import ConfigError, StorageAway

Item = TypeVar("Item")

PATIENCE_ENV = "R1_S3_PATIENCE"
"""Environment variable: seconds to wait for an object store that does not answer; 0: not at all."""
DEFAULT_PATIENCE_S = 600.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
WORKERS = 8
"""Objects on their way at once. One of many parts is spread over threads by boto3 as well."""


def patience_s() -> float:
    """Return R1_S3_PATIENCE, or ten minutes. ConfigError when it is no number of seconds."""
    asked = os.environ.get(PATIENCE_ENV)
    if not asked:
        return DEFAULT_PATIENCE_S
    try:
        seconds = float(asked)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(PATIENCE_ENV, asked, "must be seconds, 0 or more")
    return seconds


def for_each(
    items: Sequence[Item], act: Callable[[Item], None], *, patience: float, tell: Callable[[str], None]
) -> None:
    """Call `act` for every item, several at once, and again for those that met a store that is away.

    `act` must be safe to repeat. The limit counts from the last item that got through. `tell` gets a line for each pause.

    Raises:
        StorageAway: The store stayed away for `patience` seconds; the message says how many items are left.
        StorageError: Anything that waiting does not mend, at once.
    """
    left, pause, since = list(items), FIRST_PAUSE_S, time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        while left:
            failed: list[tuple[Item, StorageAway]] = []
            for item, error in pool.map(lambda item: (item, _away(act, item)), left):
                if error is not None:
                    failed.append((item, error))
            if not failed:
                return
            if len(failed) < len(left):
                pause, since = FIRST_PAUSE_S, time.monotonic()
            left, why = [item for item, _ in failed], failed[0][1]
            waited = time.monotonic() - since
            if waited >= patience:
                raise StorageAway(
                    f"{why} {len(left)} of {len(items)} objects are left after {waited:.0f} s. What is done is kept: start "
                    f"the stage again once the store answers ({PATIENCE_ENV} sets how long is waited)."
                ) from why
            drawn = min(random.uniform(pause / 2, pause), patience - waited)
            tell(f"warning: {why} {len(left)} of {len(items)} objects left; trying again in {drawn:.1f} s")
            time.sleep(drawn)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _away(act: Callable[[Item], None], item: Item) -> StorageAway | None:
    try:
        act(item)
    except StorageAway as error:
        return error
    return None
