"""What a rollout server adds to vLLM's HTTP server: three routes, as one of vLLM's endpoint plugins.

- `GET  /inference/rollout/version`: the version of the weights held.
- `POST /inference/rollout/weights`: load files through vLLM's weight-transfer API, under a version.
- `POST /inference/rollout/generate`: sample groups; one JSON line a group, as soon as its last sample ends.

Why not vLLM's own routes for this: its `generate` takes one prompt, and which prompts share a step then depends on
when each request arrives; with one random generator for all of them, equal seeds would give other text. Here a call
brings all prompts of a server, which enter the engine while it is paused, so that every step is the same in every
run. And vLLM's routes for weights exist in its development mode only, together with one that calls any method of
the engine, without a key. These three lie below /inference, which vLLM's --api-key guards.
"""

from __future__ import annotations

import asyncio
import json
import math
from argparse import Namespace
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import State
from vllm import SamplingParams
from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest
from vllm.engine.protocol import EngineClient
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

CONFLICT = 409
router = APIRouter(prefix="/inference/rollout")


class LoadWeights(BaseModel):
    """Body of `weights`."""

    model_config = ConfigDict(extra="forbid")
    paths: list[str]
    version: str


class Generate(BaseModel):
    """Body of `generate`: `n` samples of every prompt, drawn from weights of `version` and nothing else."""

    model_config = ConfigDict(extra="forbid")
    prompts: list[list[int]]
    n: int
    max_tokens: int
    temperature: float
    top_p: float
    stop_token_ids: list[int]
    seed: int
    version: str


class RolloutRoutes:
    """The plugin, by vLLM's protocol (`vllm.plugins.endpoint_plugins.interface.EndpointPlugin`)."""

    name = "r1_rollout"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Called once, while vLLM builds its application."""
        app.include_router(router)

    async def init_state(self, engine_client: EngineClient, state: State, args: Namespace) -> None:
        """One batch, or one change of weights, at a time: a call's draws must not depend on another's."""
        state.rollout_engine, state.rollout_turn, state.rollout_calls = engine_client, asyncio.Lock(), 0


@router.get("/version")
async def version(request: Request) -> dict[str, str]:
    """The version of the weights that this server samples from; `default` before it was given any."""
    return {"version": await request.app.state.rollout_engine.get_weight_version()}


@router.post("/weights")
async def load_weights(body: LoadWeights, request: Request) -> dict[str, str]:
    """Replace the weights. A caller that hangs up does not interrupt it: half of a checkpoint is never served."""
    state = request.app.state
    async with state.rollout_turn:
        return {"version": await asyncio.shield(_replace(state.rollout_engine, body))}


async def _replace(engine: EngineClient, body: LoadWeights) -> str:
    await engine.start_weight_update()
    await engine.update_weights(WeightTransferUpdateRequest(update_info={"paths": body.paths}))
    await engine.finish_weight_update(body.version)
    return await engine.get_weight_version()


@router.post("/generate", response_model=None)
async def generate(body: Generate, request: Request) -> Response:
    """JSON lines {"prompt": index, "samples": [...]}; a failure inside is a last line {"error": ...}."""
    state = request.app.state
    held = await state.rollout_engine.get_weight_version()
    if held != body.version:
        detail = f"holds weights of version {held}, the trainer is at {body.version}"
        return JSONResponse({"detail": detail}, status_code=CONFLICT)
    state.rollout_calls += 1
    return StreamingResponse(
        _lines(state, body, f"rollout-{state.rollout_calls}"), media_type="application/x-ndjson"
    )


async def _lines(state: State, body: Generate, call: str) -> AsyncIterator[str]:
    engine: EngineClient = state.rollout_engine
    await state.rollout_turn.acquire()
    waiting: list[asyncio.Task[tuple[int, RequestOutput]]] = []
    try:
        await engine.pause_generation(mode="keep")
        # Blocks of an earlier call would change how long prefills are, and with it the rounding.
        await engine.reset_prefix_cache()
        collectors = [
            await engine.add_request(f"{call}-{index}", {"prompt_token_ids": prompt}, _sampling(body))
            for index, prompt in enumerate(body.prompts)
        ]
        waiting = [asyncio.create_task(_finished(*pair)) for pair in enumerate(collectors)]
        await engine.collective_rpc("seed_sampler", args=(body.seed,))
        await engine.resume_generation()
        for next_finished in asyncio.as_completed(waiting):
            index, output = await next_finished
            yield json.dumps({"prompt": index, "samples": _samples(output)}) + "\n"
    except Exception as error:
        yield json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n"
    finally:
        # A task of its own, which ends the turn: when the caller hangs up, whatever is awaited here is cancelled.
        state.rollout_clearing = asyncio.create_task(_clear(state, call, waiting, len(body.prompts)))


async def _clear(state: State, call: str, waiting: list[asyncio.Task], prompts: int) -> None:
    """Leave no request for the next call, and never stay paused."""
    try:
        for task in waiting:
            task.cancel()
        await state.rollout_engine.abort([f"{call}-{index}" for index in range(prompts)])
        await state.rollout_engine.resume_generation()
    finally:
        state.rollout_turn.release()


async def _finished(index: int, collector: Any) -> tuple[int, RequestOutput]:
    while True:
        output = await collector.get()
        if output.finished:
            return index, output


def _sampling(body: Generate) -> SamplingParams:
    return SamplingParams(
        n=body.n,
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        logprobs=0,
        stop_token_ids=body.stop_token_ids,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _samples(output: RequestOutput) -> list[dict[str, Any]]:
    """Token ids, their log-probabilities (null where not finite), how each ended, and which weights drew it."""
    samples = []
    for sample in sorted(output.outputs, key=lambda sample: sample.index):
        logprobs = [
            float(step[token].logprob)
            for token, step in zip(sample.token_ids, sample.logprobs or (), strict=True)
        ]
        samples.append(
            {
                "token_ids": list(sample.token_ids),
                "logprobs": [value if math.isfinite(value) else None for value in logprobs],
                "finish_reason": sample.finish_reason,
                "versions": sorted({span.version for span in sample.weight_versions or ()}),
            }
        )
    return samples
