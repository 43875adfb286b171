"""TRL's GRPOTrainer, one step at a time: `.venv-bench/bin/python -m benchmarks.worker_trl <work.json>` (started by `_sides`).

Set up to do the same work as `worker_r1`: the same prompts in the same order, rewards by the same code from the same
token ids, the same loss (GRPO: mean over answers of the mean over tokens, group z-score, clip 0.2, no KL), the same
optimizer (AdamW, no decay, betas 0.9 and 0.999, constant rate after a linear warm-up, gradient norm 1). Left at TRL's own
choice: its sampler (transformers `generate` with a cache; on a GPU vLLM, colocated), its padding, its dropping of nothing.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks._work import Phases, Pipe, Turn, Work, heldout_accuracy, judging, read_work


def main() -> None:
    """Train until told to stop."""
    pipe, work, phases = Pipe(), read_work(), Phases()
    import torch

    torch.set_num_threads(work.threads)
    torch.manual_seed(work.seed)

    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from pipeline_lib.modeling import load_model, load_tokenizer

    model, tokenizer = load_model(work.model), load_tokenizer(work.model)
    with judging(work) as judge:
        turn = Turn(pipe, phases, lambda: heldout_accuracy(work, model, tokenizer, judge))
        seen: dict[str, float] = {}
        trainer = GRPOTrainer(
            model=model,
            args=_settings(work),
            train_dataset=_prompts(work),
            processing_class=tokenizer,
            reward_funcs=_reward(work, judge, tokenizer, seen),
        )

        class Lockstep(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                turn.begin()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                turn.end(**seen)

        trainer.add_callback(Lockstep())
        _wrap(trainer, phases)
        pipe.tell(ready=True)
        trainer.train()


def _settings(work: Work) -> Any:
    import tempfile

    from trl import GRPOConfig

    samples = work.problems_per_step * work.group_size
    rows = work.peer_rows or samples
    return GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-"),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=samples // rows,
        steps_per_generation=samples // rows,
        num_generations=work.group_size,
        max_completion_length=work.max_new_tokens,
        temperature=work.temperature,
        top_p=1.0,
        top_k=0,
        beta=work.kl_coef,
        epsilon=0.2,
        loss_type="grpo",
        scale_rewards="group",
        num_iterations=1,
        mask_truncated_completions=False,
        learning_rate=work.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=work.warmup_steps,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        max_steps=work.steps,
        seed=work.seed,
        shuffle_dataset=False,
        bf16=work.dtype == "bfloat16",
        use_cpu=work.device == "cpu",
        use_vllm=work.rollout == "vllm",
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.45,
        vllm_enable_sleep_mode=work.rollout == "vllm",
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )


def _prompts(work: Work) -> Any:
    """The prompts in the order in which `worker_r1` takes them."""
    from pathlib import Path

    from datasets import Dataset

    from pipeline_lib.data.schema import read_problems
    from pipeline_lib.training.order import Cursor, derived_seed

    problems = read_problems(Path(work.problems))
    order = Cursor(len(problems), derived_seed(work.seed, "train_r1_zero")).take(
        min(work.steps, 400) * work.problems_per_step
    )
    chosen = [problems[index] for index in order]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": problem.prompt}] for problem in chosen],
            "row": list(order),
        }
    )


def _reward(work: Work, judge: Any, tokenizer: Any, seen: dict[str, float]) -> Any:
    from pathlib import Path

    from pipeline_lib.data.schema import read_problems
    from pipeline_lib.modeling import decode
    from pipeline_lib.types import Completion, Outcome

    problems = read_problems(Path(work.problems))

    def reward(prompts: Any, completions: Any, completion_ids: Any, row: Any, **_: Any) -> list[float | None]:
        owners = [problems[index] for index in row]
        samples = [
            Completion(problem.id, (0,), tuple(ids), (0.0,) * len(ids), decode(tokenizer, ids), True)
            for problem, ids in zip(owners, completion_ids, strict=True)
        ]
        rewards = judge(owners, samples)
        signal = [r for r in rewards if not r.masked]
        right = sum(r.verdict.outcome is Outcome.CORRECT for r in signal)
        seen.update(
            samples=float(len(samples)),
            tokens=float(sum(map(len, completion_ids))),
            reward=sum(r.total for r in signal) / max(len(signal), 1),
            accuracy=right / max(len(signal), 1),
        )
        return [None if r.masked else r.total for r in rewards]

    return reward


def _wrap(trainer: Any, phases: Phases) -> None:
    """Time what `worker_r1` times, by the names it gives them."""
    phases.wrap(trainer, "_generate", "sample")
    phases.wrap(trainer, "_calculate_rewards", "verify")
    phases.wrap(trainer, "_get_per_token_logps_and_entropies", "forward")
    phases.wrap(trainer.accelerator, "backward", "backward")
    make = trainer.create_optimizer

    def create_optimizer(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        phases.wrap(trainer.optimizer, "step", "step")
        return made

    trainer.create_optimizer = create_optimizer


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
