"""Rewards load without torch and without any platform package."""

from __future__ import annotations

import subprocess
import sys

HEAVY = "torch deepspeed vllm mlflow boto3 great_expectations dvc airflow sympy math_verify transformers"


def test_imports_stay_light() -> None:
    code = (
        "import sys; import pipeline_lib.rewards.combine as c; c.reward_parts(); "
        f"print([m for m in {HEAVY.split()!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
