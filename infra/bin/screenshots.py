"""Take the pictures of docs/images: Airflow, MLflow and the report of the newest finished run of this checkout's services.

    make demo && make browser && .venv/bin/python infra/bin/screenshots.py

Chromium is Debian's, driven by Playwright.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline_lib.orchestration.worktree import run_name  # noqa: E402 -- a script has only its own folder
from pipeline_lib.services import stack as stacks  # noqa: E402

FOLDER = ROOT / "docs" / "images"
DAG = "deepseek_r1"
MOVING_MS = 5000
"""Time for charts and boxes to move into place."""
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
        page = browser.new_context(viewport={"width": 1600, "height": 1000}, device_scale_factor=2).new_page()
        page.set_default_timeout(40_000)
        page.goto(f"{stack.airflow}/dags/{DAG}/runs/{run_id}")
        page.get_by_role("button", name=re.compile("graph", re.IGNORECASE)).first.click()
        nodes = page.locator(".react-flow__node")
        nodes.first.wait_for()
        page.wait_for_timeout(MOVING_MS)
        boxes = [box for node in nodes.all() if (box := node.bounding_box())]
        left, top = (min(box[side] for box in boxes) - 12 for side in ("x", "y"))
        right = max(box["x"] + box["width"] for box in boxes) + 12
        bottom = max(box["y"] + box["height"] for box in boxes) + 12
        _take(page, "airflow", {"x": left, "y": top, "width": right - left, "height": bottom - top})
        page.goto(stacks.tracking_server(ROOT, stack).runs_page(name))
        page.locator(".ag-row button").first.click()  # the parent run, whose children are the stages
        page.get_by_text("register_models").first.wait_for()
        page.get_by_role("button", name="Close").first.click()  # a panel of MLflow's assistant
        page.wait_for_timeout(MOVING_MS)
        _take(page, "mlflow")
        page.goto(f"{stack.files}/runs/{name}/reports/report.html")
        page.get_by_role("heading", name="How reasoning appears").evaluate("e => e.scrollIntoView()")
        page.wait_for_timeout(MOVING_MS)
        _take(page, "report")
        browser.close()


def _take(page: Page, name: str, clip: FloatRect | None = None) -> None:
    """Write one picture of what the window shows, or of a part of it, 1,600 pixels wide at most."""
    file = FOLDER / f"{name}.png"
    page.screenshot(path=file, clip=clip)
    with Image.open(file) as picture:
        small = picture.convert("RGB")
    small.thumbnail((1600, 1600))
    small.quantize(COLOURS).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
