"""Take the pictures of docs/images: Airflow, MLflow and the report of the newest finished run of this checkout's services.

    make demo && make browser && .venv/bin/python infra/bin/screenshots.py

Chromium is Debian's, driven by Playwright.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline_lib.orchestration.worktree import run_name  # noqa: E402 -- a script has only its own folder
from pipeline_lib.services import stack as stacks  # noqa: E402

FOLDER = ROOT / "docs" / "images"
DAG = "deepseek_r1"
COLOURS = 128
"""A palette of that many keeps a picture of a page below 200 KB."""


def main() -> None:
    """Write docs/images/*.png; the services must run."""
    stack = stacks.load(ROOT)
    if stack is None or not stack.alive():
        raise SystemExit("not running: `make demo` first")
    api = stacks.airflow_api(ROOT, stack)
    runs = api.get(f"/dags/{DAG}/dagRuns?state=success&order_by=-run_after&limit=1")["dag_runs"]
    if not runs:
        raise SystemExit(f"no finished run of {DAG}: `make demo` first")
    run_id = runs[0]["dag_run_id"]
    name = run_name(DAG, run_id)
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1500, "height": 950}).new_page()
        page.set_default_timeout(90_000)
        page.goto(f"{stack.airflow}/dags/{DAG}/runs/{run_id}")
        page.get_by_text("report", exact=True).first.wait_for()
        graph = page.get_by_role("button", name=re.compile("graph", re.IGNORECASE))
        if graph.count():
            graph.first.click()
        _take(page, "airflow")
        page.goto(stacks.tracking_server(ROOT, stack).runs_page(name))
        page.get_by_text("train_r1_zero").first.wait_for()
        _take(page, "mlflow")
        page.goto(f"{stack.files}/runs/{name}/reports/report.html")
        _take(page, "report")
        browser.close()


def _take(page: Page, name: str) -> None:
    """Write one picture of what the window shows."""
    page.wait_for_timeout(5000)  # charts move into place
    file = FOLDER / f"{name}.png"
    page.screenshot(path=file)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
