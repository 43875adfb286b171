"""What MLflow remembers of a run (design §1, §3): one parent run per pipeline run, a child per stage.

A stage never imports MLflow (4-8 s of CPU, and a server that may be away): it appends events to a journal in
its working directory, and one shipper process per working directory delivers them
(docs/decisions/0008-mlflow-journal.md).
"""

from pipeline_lib.tracking.find import RunLink, find_run
from pipeline_lib.tracking.locations import main_checkout, pipeline_run, tracking_uri
from pipeline_lib.tracking.outputs import locked_output_hash
from pipeline_lib.tracking.run import StageRun, attach_run, stage_run

__all__ = [
    "RunLink",
    "StageRun",
    "attach_run",
    "find_run",
    "locked_output_hash",
    "main_checkout",
    "pipeline_run",
    "stage_run",
    "tracking_uri",
]
