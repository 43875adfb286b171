"""A person triggers a run in a real browser: other students, another seed, boxes turn green, links open.

Chromium is Debian's (`apt-get install chromium`), driven by Playwright. Screenshots are kept in
`R1_SCREENSHOTS` when it is set.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect, sync_playwright

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 90_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": 1500, "height": 1100})
        context.set_default_timeout(PATIENCE_MS)
        context.set_default_navigation_timeout(PATIENCE_MS)
        yield context.new_page()
        browser.close()


def shoot(page: Page, name: str) -> None:
    """Keep a screenshot for a person to look at."""
    folder = os.environ.get("R1_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=False)


def test_a_run_is_triggered_from_the_form(tiny_services, page):
    services = tiny_services
    page.goto(f"{services.stack.airflow}/dags/deepseek_r1")
    page.get_by_role("button", name=re.compile("Trigger")).first.click()
    form = page.get_by_role("dialog")
    expect(form).to_contain_text("Ablations")
    form.get_by_role("button", name="What to run").click()
    expect(form.get_by_text("Models to distill into")).to_be_visible()
    form.locator("#element_students").fill("tiny-a\ntiny-b")
    form.locator("[name=element_seed]").fill("21")
    shoot(page, "form")
    form.get_by_role("button", name=re.compile("^Trigger")).last.click()
    run_id = _new_run(services)
    page.goto("about:blank")  # drawing the run while it changes takes a core
    services.wait({run_id: "deepseek_r1"})

    instances = services.instances(run_id)
    assert {i["state"] for i in instances.values()} == {"success"}
    assert {name for name in instances if name.startswith("distill@")} == {"distill@tiny-a", "distill@tiny-b"}
    params = yaml.safe_load((services.worktree(run_id) / "params.yaml").read_text())
    assert (params["run"]["seed"], params["distill"]["students"]) == (21, ["tiny-a", "tiny-b"])

    page.goto(f"{services.stack.airflow}/dags/deepseek_r1/runs/{run_id}")
    expect(page.get_by_role("heading", name=run_id).first).to_be_visible()
    shoot(page, "run")
    page.goto(f"{services.stack.airflow}/dags/deepseek_r1/runs/{run_id}/tasks/distill/mapped")
    for student in ("tiny-a", "tiny-b"):
        row = page.get_by_role("row").filter(has_text=student)
        expect(row).to_contain_text(re.compile("success", re.IGNORECASE))
    shoot(page, "students")

    page.goto(f"{services.stack.airflow}/dags/deepseek_r1/runs/{run_id}/tasks/train_r1_zero/details")
    link = page.get_by_role("link", name="MLflow run")
    expect(link).to_be_visible()
    expect(page.get_by_role("link", name="Data Docs")).to_be_visible()
    shoot(page, "links")
    page.goto(link.get_attribute("href"))
    expect(page.get_by_text("train_r1_zero").first).to_be_visible()
    shoot(page, "mlflow")


def _new_run(services) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        runs = services.api.get("/dags/deepseek_r1/dagRuns?order_by=-run_after&limit=10")["dag_runs"]
        mine = [r["dag_run_id"] for r in runs if r["conf"].get("seed") == 21]
        if mine:
            return mine[0]
        time.sleep(1)
    raise AssertionError("the form did not start a run")
