"""How fast the endpoint answers: `python jobs/benchmark.py serve`.

Against two peers that write with the same engine, the same base model and adapter, and the same settings: vLLM's own
server (`vllm serve`), and the engine behind a bare route of FastAPI and uvicorn. The same clients ask all three for
the same streamed chat completions, in turn. Nothing else runs (who is not asked is stopped), but clients and server
share the machine's cores.
"""

import asyncio
import functools
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ecr_ray import benchmarks
from ecr_ray.cluster import ports
from ecr_ray.config import ServeConfig
from ecr_ray.errors import UserError
from ecr_ray.models import tiny
from ecr_ray.serving import policy

MODULE = "ecr_ray.benchmarks.serve"
# Clients at once → requests.
LOADS = {1: 16, 8: 64, 32: 192, 64: 384}
# They are short, and a start is not: so many loads a round.
LOADS_A_ROUND = 2
TOKENS, START_S, SETTLE_S = 32, 240, 1.0
ADAPTER = "ecr-tiny-ppo"
SETTINGS = ServeConfig(requests_per_minute=10**7, requests_at_once=10**4, open=True)
# With HAProxy in front, and with Serve's own proxy.
OURS = ("haproxy", "proxy")
PEERS = {"vllm": "`vllm serve`", "bare": "bare uvicorn and FastAPI, the same engine"}
# Whose ratios the table shows.
COMPARED = {
    ("haproxy", "vllm"): "`haproxy` over `vllm serve`",
    ("haproxy", "bare"): "`haproxy` over bare",
    ("proxy", "vllm"): "`proxy` over `vllm serve`",
}


def run(rounds: int) -> list[dict[str, Any]]:
    """Every arm in turn; then the rows of the record."""
    names = (*OURS, *PEERS)
    with tempfile.TemporaryDirectory() as folder:
        alone = {name: (lambda name=name: started(name, Path(folder))) for name in names}
        starts = benchmarks.in_turn(alone, rounds)
        with ExitStack() as stack:
            servers = {name: stack.enter_context(_asleep(name, Path(folder))) for name in names}
            loads = _all_loaded(servers, LOADS_A_ROUND * rounds)
    return [*_rows(starts), *_rows(loads)]


def _all_loaded(servers: Mapping[str, "Server"], rounds: int) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    # Those from 0 are for warming up.
    serial = itertools.count(1)
    for number in range(1, rounds + 1):
        for name, times in loaded(servers, serial).items():
            found[name].append(times)
            print(f"  load {number}/{rounds}  {name}: {benchmarks.short(times)}", file=sys.stderr, flush=True)
    return found


def _rows(found: Mapping[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    work = f"streamed chat completions of at most {TOKENS} tokens, ecr-tiny-chat with an adapter, embedded dialogues"
    rows = []
    for front, peer in itertools.product(OURS, PEERS):
        for key in found[front][0]:
            ours, theirs = ([result[key] for result in found[name]] for name in (front, peer))
            more = _difference(ours, theirs) if key.startswith("first text") else {}
            rows.append(benchmarks.row(PEERS[peer], f"{key}, --front {front}", ours, theirs, work, **more))
    return rows


def _difference(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Ours less theirs: median, smallest and largest of the rounds."""
    found = [a - b for a, b in zip(ours, theirs, strict=True)]
    return {"difference": [round(x, 2) for x in (statistics.median(found), min(found), max(found))]}


def table(content: Mapping[str, Any]) -> str:
    """A record as one table: a line a measure, a column an arm."""
    found = {(row["measure"], row["against"]): row for row in content["rows"]}
    keys = list(dict.fromkeys(row["measure"].rpartition(", --front ")[0] for row in content["rows"]))
    heads = [*(f"`--front {front}`" for front in OURS), *PEERS.values()]
    heads += COMPARED.values()
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for key in keys:
        rows = {pair: found[f"{key}, --front {pair[0]}", PEERS[pair[1]]] for pair in itertools.product(OURS, PEERS)}
        cells = [f"{rows[front, 'vllm']['ours']:.4g}" for front in OURS]
        cells += [f"{rows[OURS[0], peer]['theirs']:.4g}" for peer in PEERS]
        for pair in COMPARED:
            row = rows[pair]
            more = f"; {row['difference'][0]:+.1f} ms" if "difference" in row else ""
            cells.append(f"**{row['ratio']:.3g}** ({row['low']:.3g}–{row['high']:.3g}){more}")
        lines.append(f"| {key} | {' | '.join(cells)} |")
    starts, loads = min(row["n"] for row in content["rows"]), max(row["n"] for row in content["rows"])
    told = f"Medians of {loads} loads in turn, of {starts} starts: {content['rows'][0]['work']}."
    return "\n".join([*lines, "", told])


def started(arm: str, folder: Path) -> dict[str, float]:
    """Start a server, ask it a little, end it: seconds and MiB. No other server runs."""
    (port,) = ports.find_free(1)
    began = time.perf_counter()
    with _running(_command(arm, port, folder), _environment(arm), port, arm) as process:
        found = {"from the start to the first answer, s": time.perf_counter() - began}
        asyncio.run(asked(f"http://127.0.0.1:{port}", max(LOADS), 2 * max(LOADS)))
        return found | {"memory, MiB": _memory(process.pid)}


def loaded(servers: Mapping[str, "Server"], serial: Iterator[int]) -> dict[str, dict[str, float]]:
    """The same load on every server, a slice of it each in turn, while the others sleep.

    No question comes to a server twice; their numbers come from `serial`. A shared machine may be half as fast ten
    seconds later: what one server is given the others get right after it.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in servers}
    for at_once, count in LOADS.items():
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        seconds = dict.fromkeys(servers, 0.0)
        since = [next(serial) * max(LOADS.values()) for _ in range(2)]
        for leg, name in [*((0, name) for name in servers), *((1, name) for name in reversed(servers))]:
            with servers[name].awake() as url:
                asyncio.run(asked(url, 4, 4))
                began = time.perf_counter()
                times[name] += asyncio.run(asked(url, at_once, count // 2, since[leg]))
                seconds[name] += time.perf_counter() - began
        for name in servers:
            first, whole = (1e3 * np.array(column) for column in zip(*times[name], strict=True))
            found[name] |= {
                f"requests/s, {at_once} at once": count / seconds[name],
                f"first text, p50, ms, {at_once} at once": float(np.percentile(first, 50)),
                f"answer, p50, ms, {at_once} at once": float(np.percentile(whole, 50)),
                f"answer, p95, ms, {at_once} at once": float(np.percentile(whole, 95)),
                f"answer, p99, ms, {at_once} at once": float(np.percentile(whole, 99)),
            }
    return found


class Server:
    """One that runs, or sleeps with all that it has started (SIGSTOP)."""

    def __init__(self, url: str, pid: int) -> None:
        self._url, self._process = url, psutil.Process(pid)
        self._signal(signal.SIGSTOP)

    @contextmanager
    def awake(self) -> Iterator[str]:
        """Where it is, while it is awake."""
        self._signal(signal.SIGCONT)
        # What fell due meanwhile is done now, and not during the load.
        time.sleep(SETTLE_S)
        yield self._url
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """For good."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for one in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)


@contextmanager
def _asleep(arm: str, folder: Path) -> Iterator[Server]:
    (port,) = ports.find_free(1)
    with _running(_command(arm, port, folder), _environment(arm), port, arm) as process:
        url = f"http://127.0.0.1:{port}"
        asyncio.run(asked(url, 4, 16))
        server = Server(url, process.pid)
        try:
            yield server
        finally:
            server.wake()


def _command(arm: str, port: int, folder: Path) -> list[str]:
    if arm in OURS:
        words = ["jobs/serve.py", "--open", "--port", port, "--output", folder / f"serve-{port}", "--critic", ""]
        words += ["--front", arm]
        return [*map(str, words), "--requests-per-minute", str(10**7), "--requests-at-once", str(10**4)]
    if arm == "bare":
        return ["-m", MODULE, str(port)]
    words = _options(policy.engine_arguments(SETTINGS))
    words += ["--lora-modules", f"{ADAPTER}={tiny.HERE / ADAPTER}", "--port", str(port), "--host", "127.0.0.1"]
    return ["-m", "vllm.entrypoints.openai.api_server", *words, "--served-model-name", SETTINGS.base]


def _options(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as vLLM's command line has them: what is false has an option of its own."""
    words: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return words


def _environment(arm: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return kept | ({} if arm in OURS else policy.environment(SETTINGS))


@contextmanager
def _running(words: list[str], env: dict[str, str], port: int, arm: str) -> Iterator[subprocess.Popen]:
    root = Path(__file__).parents[2]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=root, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            asyncio.run(_until_it_answers(f"http://127.0.0.1:{port}", process))
            yield process
        except UserError as error:
            log.seek(0)
            raise UserError(f"{arm}: {error}\n{log.read().decode(errors='replace')[-3000:]}") from error
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def _until_it_answers(url: str, process: subprocess.Popen) -> None:
    import httpx

    deadline = time.monotonic() + START_S
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise UserError("the server ended")
            with suppress(httpx.HTTPError):
                found = await client.post(f"{url}/v1/chat/completions", json=_body("hello"))
                if found.status_code == 200:
                    return
            await asyncio.sleep(0.2)
    raise UserError(f"the server did not answer in {START_S} s")


def _memory(pid: int) -> float:
    """Proportional set sizes of a process and all that it started, MiB: what is shared counts once."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    sizes = []
    for one in family:
        with suppress(psutil.NoSuchProcess):
            sizes.append(one.memory_full_info().pss)
    return sum(sizes) / 2**20


# --- clients --------------------------------------------------------------------------------------------------


def _body(text: str, seed: int = 0, stream: bool = True) -> dict[str, Any]:
    messages = [{"role": "system", "content": "You recommend films."}, {"role": "user", "content": text}]
    asked = {"model": ADAPTER, "messages": messages, "max_tokens": TOKENS, "temperature": 0.7, "seed": seed}
    return {**asked, "stream": stream}


@functools.cache
def _questions() -> list[str]:
    """What seekers say in the embedded dialogues."""
    from ecr_ray.data import reading

    rows = reading.read(reading.find("sample"), max_message_chars=20_000, number_rows=False)
    dialogues = [row.value for row in rows if isinstance(row, reading.Row)]
    return [m["text"] for dialogue in dialogues for m in dialogue["messages"] if m["role"] == "seeker"]


async def asked(url: str, at_once: int, count: int, since: int = 0) -> list[tuple[float, float]]:
    """So many questions of so many clients at once; seconds to the first text and to the end of their answers.

    Not of each client's first one: all clients ask that in the same instant, and never again.

    Args:
        since: number of the first question; each is another one, as the number is part of it.
    """
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await _all(session, url, _questions(), range(since, since + count), at_once)


async def _all(session: Any, url: str, questions: list[str], asks: range, at_once: int) -> list[tuple[float, float]]:
    numbers = iter(asks)

    async def client() -> list[tuple[float, float]]:
        times = []
        for number in numbers:
            text = f"{number}: {questions[number % len(questions)]}"
            times.append(await _one(session, url, _body(text, number)))
        return times[1:]

    return list(itertools.chain(*await asyncio.gather(*(client() for _ in range(at_once)))))


async def _one(session: Any, url: str, body: dict[str, Any]) -> tuple[float, float]:
    began, first = time.perf_counter(), None
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if first is None and line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    first = time.perf_counter() - began
    whole = time.perf_counter() - began
    # An answer may be empty.
    return first or whole, whole


# --- the bare peer ----------------------------------------------------------------------------------------------


async def bare(port: int) -> None:
    """vLLM's engine behind one route."""
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from transformers import AutoTokenizer
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**policy.engine_arguments(SETTINGS)))
    tokenizer = AutoTokenizer.from_pretrained(tiny.resolve_model(SETTINGS.base))
    adapter, app = LoRARequest(ADAPTER, 1, str(tiny.HERE / ADAPTER)), FastAPI()

    @app.post("/v1/chat/completions")
    async def completions(body: dict[str, Any]) -> StreamingResponse:
        ids = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True)["input_ids"]
        kind = {"output_kind": RequestOutputKind.DELTA}
        params = SamplingParams(**{k: body[k] for k in ("max_tokens", "temperature", "seed")}, **kind)

        async def lines() -> AsyncIterator[str]:
            prompt, number = {"prompt_token_ids": list(ids)}, os.urandom(8).hex()
            async for output in engine.generate(prompt, params, number, lora_request=adapter):
                yield f"data: {json.dumps({'choices': [{'delta': {'content': output.outputs[0].text}}]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning")).serve()
    engine.shutdown()


if __name__ == "__main__":
    asyncio.run(bare(int(sys.argv[1])))
