"""Find the run that computed a stage's outputs: by stage and output hash (design §3).

A stage restored from DVC's cache links to the run that did the work. The shipper keeps an index in the shared
store, so that the usual answer costs one file read; without it, MLflow is asked.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline_lib.storage.atomic import write_json
from pipeline_lib.tracking.locations import EXPERIMENT, journal_dir, link_name, store_dir, tracking_uri
from pipeline_lib.tracking.outputs import locked_output_hash


@dataclass(frozen=True, slots=True)
class RunLink:
    """Where a run is in MLflow."""

    run_id: str
    experiment_id: str


def find_run(
    stage: str, output_hash: str, item: str | None = None, root: Path | None = None
) -> RunLink | None:
    """Return the newest finished run of the stage that wrote outputs with this hash, or None."""
    entry = index_path(stage, item, output_hash, root)
    if entry.is_file():
        found = json.loads(entry.read_text(encoding="utf-8"))
        if found["uri"] == tracking_uri(root):
            return RunLink(found["run_id"], found["experiment_id"])
    from pipeline_lib.tracking.client import open_client

    client = open_client(tracking_uri(root), root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    wanted = (
        f"tags.stage = '{stage}' and tags.output_hash = '{output_hash}' and attributes.status = 'FINISHED'"
    )
    if item is not None:
        wanted += f" and tags.item = '{item}'"
    runs = client.search_runs(
        [experiment.experiment_id], wanted, order_by=["attributes.start_time DESC"], max_results=1
    )
    return RunLink(runs[0].info.run_id, experiment.experiment_id) if runs else None


def link_restored(stage: str, item: str | None = None, root: Path | None = None) -> RunLink | None:
    """Write `.run/mlflow/<stage>[@item].json` for a stage that DVC restored from its cache, and return the link.

    None when dvc.lock does not know the stage or no run that computed it is left.
    """
    root = (root or Path.cwd()).resolve()
    hashed = locked_output_hash(stage, item, root)
    link = find_run(stage, hashed, item, root) if hashed else None
    if link is not None:
        write_link(stage, item, link, root)
    return link


def write_link(stage: str, item: str | None, link: RunLink, root: Path) -> None:
    """Write the file by which Airflow's buttons find the run."""
    write_json(journal_dir(root) / f"{link_name(stage, item)}.json", asdict(link))


def index_path(stage: str, item: str | None, output_hash: str, root: Path | None = None) -> Path:
    """File of the index that names the run of these outputs."""
    return store_dir(root) / "index" / link_name(stage, item) / f"{output_hash}.json"
