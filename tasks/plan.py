"""Capacity on paper: `python -m tasks.plan --profile deepseek-v3` prints memory, hours and cost of the RL stages.

Reinforcement learning is 142 of the 147 thousand GPU hours of the published run (v2 Table 7); the other stages are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from pipeline_lib.capacity import Cluster, Model, Rollout
    from pipeline_lib.params import GrpoParams, Params

STAGES = ("train_r1_zero", "train_reasoning_rl", "train_all_task_rl")
STRAGGLERS = 0.75
"""Share of a step spent on the longest completion from which the plan says what to do about it."""


def main() -> int:
    """Exit 0 and print the plan, or exit 2 with one line that says what to change."""
    parser = argparse.ArgumentParser(prog="python -m tasks.plan", description=__doc__)
    parser.add_argument("--profile", required=True, help="a file of profiles/")
    parser.add_argument("--gpu", default="h800", help="a100, h100, h200 or h800 (default)")
    parser.add_argument("--gpus", type=int, default=0, help="default: the profile's world_size")
    parser.add_argument("--price", type=float, default=2.0, help="dollars per GPU hour (default: 2)")
    parser.add_argument(
        "--mean-tokens", type=float, default=0.0, help="mean response; default: 0.2 of the limit"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.field=value", dest="assignments"
    )
    arguments = parser.parse_args()
    try:
        print("\n".join(_plan(arguments)))
    except PipelineError as error:
        print(f"plan: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _plan(arguments: argparse.Namespace) -> list[str]:
    from pipeline_lib.capacity import GPUS, MODELS, Cluster
    from pipeline_lib.params import build_params, compose, parse_assignment

    root = Path.cwd()
    tree = compose(arguments.profile, dict(map(parse_assignment, arguments.assignments)), root=root)
    params = build_params(tree, root=root)
    if arguments.gpu not in GPUS:
        raise ConfigError("--gpu", arguments.gpu, f"known: {', '.join(GPUS)}")
    source = params.prepare_base_model.source
    if source not in MODELS:
        raise ConfigError(
            "prepare_base_model.source",
            source,
            f"shapes known: {', '.join(MODELS)} (pipeline_lib/capacity.py)",
        )
    cluster = Cluster(GPUS[arguments.gpu], arguments.gpus or params.engine.world_size, arguments.price)
    model = MODELS[source]
    title = f"{source} on {cluster.gpus} {arguments.gpu.upper()} at ${cluster.dollars_per_gpu_hour:g} an hour"
    return [
        title,
        "",
        *_memory(params, model, cluster),
        "",
        *_hours(params, model, cluster, arguments.mean_tokens),
    ]


def _memory(params: Params, model: Model, cluster: Cluster) -> list[str]:
    from pipeline_lib.capacity import memory_per_gpu

    engine, stage = params.engine, params.train_r1_zero
    columns = [
        memory_per_gpu(
            model,
            cluster.gpus,
            zero_stage=engine.zero_stage,
            dtype_bytes=2 if engine.dtype == "bfloat16" else 4,
            offload=engine.offload == "cpu",
            microbatch_tokens=stage.microbatch_tokens,
            reference=stage.kl_coef > 0,
            sharded=sharded,
        )
        for sharded in (False, True)
    ]
    lines = [f"{'GB of a GPU in an update':<28}{'this engine':>14}{'all sharded':>14}"]
    lines += [
        f"{name:<28}{columns[0][name] / 1e9:>14.1f}{columns[1][name] / 1e9:>14.1f}" for name in columns[0]
    ]
    totals = [sum(column.values()) for column in columns]
    lines.append(
        f"{'total of ' + format(cluster.gpu.memory / 1e9, '.0f'):<28}"
        + "".join(f"{t / 1e9:>14.1f}" for t in totals)
    )
    verdicts = ["fits" if total <= cluster.gpu.memory else "does not fit" for total in totals]
    return [*lines, f"{'':<28}" + "".join(f"{verdict:>14}" for verdict in verdicts)]


def _hours(params: Params, model: Model, cluster: Cluster, mean_tokens: float) -> list[str]:
    from pipeline_lib.capacity import dollars, step_seconds

    share = params.engine.vllm.gpu_memory_utilization
    lines = [
        f"{'stage':<20}{'steps':>7}{'tokens/step':>13}{'longest s':>11}{'sampling s':>11}{'training s':>11}{'hours':>8}{'dollars':>11}"
    ]
    total, advice = 0.0, []
    for name in STAGES:
        stage: GrpoParams = getattr(params, name)
        rollout = rollout_of(stage, mean_tokens)
        seconds = step_seconds(model, cluster, rollout, share)
        hours = stage.steps * seconds.total / 3600
        total += hours
        lines.append(
            f"{name:<20}{stage.steps:>7}{rollout.tokens:>13,.0f}{seconds.longest:>11.1f}{seconds.sampling:>11.1f}"
            f"{seconds.training:>11.1f}{hours:>8.1f}{dollars(cluster, hours):>11,.0f}"
        )
        if seconds.longest > STRAGGLERS * seconds.total:
            advice.append(
                f"{name}: {seconds.longest / seconds.total:.0%} of a step waits for the longest completion. Rollouts of n times "
                "the problems with n minibatches, in a n-th of the steps, wait n times less"
            )
    lines.append(f"{'together':<73}{total:>8.1f}{dollars(cluster, total):>11,.0f}")
    return [*lines, *advice]


def rollout_of(stage: GrpoParams, mean_tokens: float) -> Rollout:
    """A stage's step as `capacity` wants it; `mean_tokens` 0: the usual share of the limit."""
    from pipeline_lib.capacity import MEAN_SHARE, Rollout

    return Rollout(
        samples=stage.problems_per_step * stage.group_size,
        max_tokens=stage.max_new_tokens,
        mean_tokens=mean_tokens or MEAN_SHARE * stage.max_new_tokens,
        reference=stage.kl_coef > 0,
        minibatches=stage.minibatches,
    )


if __name__ == "__main__":
    raise SystemExit(main())
