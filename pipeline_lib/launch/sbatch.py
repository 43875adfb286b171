"""A job as an sbatch script: one task a rank, told who it is by Slurm's own variables.

The script reads on paper what runs on the cluster: nothing in it depends on the machine that submits. It needs the
worktree and the environment at the same paths on every node, and Slurm 20.11 or newer.
"""

from __future__ import annotations

import shlex

from pipeline_lib.launch.job import LOG, Job

FIRST_END = "first-end"
"""The exit code of the first rank that ended badly. srun then stops the others, who leave in order and say so: without
it a crash would look like a preemption."""
FIRST_PORT, PORTS = 10000, 20000
"""Ranks meet at a port below the ephemeral range, by job id: two jobs on one node differ."""

SCRIPT = """\
#!/bin/bash
{header}

# Slurm tells the steps to stop; this script and the shells around the ranks outlive them to pass on their exit code.
trap : TERM
export FIRST_END={first_end}
rm -f "$FIRST_END"
{exports}
threads=${{SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / {ranks_per_node}))}}
export OMP_NUM_THREADS={threads}
# This script runs on the job's first node, and so does rank 0.
address=$(scontrol show node --oneliner "$SLURMD_NODENAME" | grep -o ' NodeAddr=[^ ]*')
export MASTER_ADDR=${{address#*=}}
export MASTER_PORT=$(({first_port} + SLURM_JOB_ID % {ports}))
# A rank that dies takes the others with it: they would wait for it for ever.
srun --kill-on-bad-exit=1 ${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}} bash -c \
  'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS; trap : TERM
  "$@"; code=$?; [ $code = 0 ] || (set -o noclobber; echo $code > "$FIRST_END") 2> /dev/null; exit $code' rank \
  {program}
code=$?
[ ! -s "$FIRST_END" ] || code=$(cat "$FIRST_END")
exit "$code"
"""


def render(job: Job) -> str:
    """The script."""
    return SCRIPT.format(
        header="\n".join(f"#SBATCH {option}" for option in options(job)),
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()),
        first_end=shlex.quote(str(job.folder / FIRST_END)),
        ranks_per_node=job.ranks_per_node,
        threads=job.threads or "$((threads > 0 ? threads : 1))",
        first_port=FIRST_PORT,
        ports=PORTS,
        program=shlex.join(job.program),
    )


def options(job: Job) -> list[str]:
    """What is asked of Slurm. `engine.slurm.options` come last and so win."""
    given = {
        "job-name": job.label,
        "chdir": str(job.root),
        # A % in a path would be a pattern, as it is for `%j`.
        "output": str(job.folder / LOG).replace("%", "%%"),
        # A requeued job begins its log anew, as a retried one does.
        "open-mode": "truncate",
        "nodes": str(job.nodes),
        "ntasks-per-node": str(job.ranks_per_node),
        "gpus-per-node": str(job.gpus_per_node) if job.gpus_per_node else "",
        "partition": job.settings["partition"],
        "account": job.settings["account"],
        "time": str(job.time_limit_minutes) if job.time_limit_minutes else "",
        "signal": f"TERM@{job.grace_seconds}" if job.grace_seconds else "",
    }
    asked = [f"--{name}={shlex.quote(value)}" for name, value in given.items() if value]
    return [*asked, "--requeue", *job.settings["options"]]
