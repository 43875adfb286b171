"""The training program: `python -m pipeline_lib.training.job <job directory>`, alone or under the DeepSpeed launcher.

The directory holds `spec.json` (see `spec.JobSpec`); checkpoints and the result are written beside it. Exit codes
are those of `pipeline_lib.errors`: 0 done, 2 bad input (one line on stderr), 75 stopped with a checkpoint.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipeline_lib.errors import PipelineError, Preempted
from pipeline_lib.startup import quick_end, wait_briefly

if TYPE_CHECKING:
    from pipeline_lib.training.context import JobContext


def main() -> None:
    """Parse the command line, run the job, exit with its code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_lib.training.job", description=__doc__)
    parser.add_argument("folder", type=Path, help="the job's directory")
    parser.add_argument("--local_rank", type=int, default=0, help="set by the DeepSpeed launcher")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop_before_the_first_step)
    wait_briefly()
    try:
        run(arguments.folder.resolve())
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from error


def _stop_before_the_first_step(_signal: int, _frame: FrameType | None) -> None:
    """Until `Preemption` takes over there is nothing to write: a job told to stop while it imports just leaves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Preempted("asked to stop before the first step; nothing is lost. Start it again to go on.")


def run(folder: Path) -> None:
    """Run the job of `folder` in this process; the working directory is the worktree."""
    from pipeline_lib.startup import import_model_libraries

    import_model_libraries()

    from pipeline_lib.params import EngineParams
    from pipeline_lib.training.checkpoint import CheckpointStore
    from pipeline_lib.training.context import JobContext, attached_run
    from pipeline_lib.training.distributed import join_world, leave_world, place_in_world
    from pipeline_lib.training.heartbeat import Heartbeat
    from pipeline_lib.training.preemption import Preemption
    from pipeline_lib.training.spec import JobSpec

    spec = JobSpec.from_json((folder / "spec.json").read_text(encoding="utf-8"))
    heartbeat = Heartbeat(folder, *place_in_world())
    heartbeat.start()
    try:
        world = join_world(EngineParams.model_validate(spec.engine))
        context = JobContext(
            spec=spec,
            root=Path.cwd(),
            folder=folder,
            world=world,
            store=CheckpointStore(folder, world),
            preemption=Preemption(world),
            heartbeat=heartbeat,
            run=attached_run() if world.is_first else None,
        )
        run_kind(context)
    finally:
        heartbeat.stop()
        leave_world()


def run_kind(context: JobContext) -> None:
    """Hand the job to the loop of its kind."""
    if context.spec.kind == "sft":
        from pipeline_lib.training.sft import run_sft

        run_sft(context)
    elif context.spec.kind == "reward_models":
        from pipeline_lib.training.reward_model import run_reward_models

        run_reward_models(context)
    else:
        _run_grpo(context)


def _run_grpo(context: JobContext) -> None:
    from pipeline_lib.rewards.combine import Scorer
    from pipeline_lib.rewards.registry import ScoreSettings
    from pipeline_lib.training.grpo import parse_section, run_grpo
    from pipeline_lib.training.reward_model import load_learned_rewards

    params = parse_section(context.spec.section)
    settings = ScoreSettings(
        language=context.spec.target_language,
        max_new_tokens=params.max_new_tokens,
        overlong_buffer=params.overlong_buffer,
    )
    learned = {}
    if "reward_models" in context.spec.inputs:
        learned = load_learned_rewards(context.input("reward_models"), context.world.device)
    with Scorer(settings, alarm_share=params.masked_alarm) as scorer:
        run_grpo(context, scorer.score_batch, learned)


if __name__ == "__main__":
    with quick_end():
        main()
