"""The demo's last table."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from pipeline_lib.services.results import results_table


def test_every_model_and_suite_is_in_the_table(tmp_path: Path):
    models = {
        "base": {"micro_math": {"pass@1": 0.181, "low": 0.15, "high": 0.21}},
        "r1": {"micro_math": {"pass@1": 0.753, "low": 0.72, "high": 0.79}, "micro_code": {"pass@1": 0.5}},
    }
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"models": models}))
    console = Console(file=StringIO(), width=100)
    console.print(results_table(file))
    text = console.file.getvalue()
    assert "18.1 [15–21]" in text
    assert "75.3 [72–79]" in text
    assert "50.0" in text
    assert "–" in text.splitlines()[-3]
