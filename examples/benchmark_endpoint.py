"""Does the endpoint engine keep a server busy? Its rate beside what the server alone can do, in one run.

    python examples/benchmark_endpoint.py --output results/endpoint [--concurrency 32] [--latency 0.2]

A server on the loopback interface, in a process of its own, answers each request after a time drawn about `latency`,
at most `concurrency` at once, as a data-parallel service does. By turns it is asked by a client that does nothing but
send one and the same request again and again (what the server alone can do), and by `mf_llm`: the people of one large
step, and rollouts of an event side by side, whose steps end together. Rates are counted by the server, from the first
request to the last answer. Writes endpoint.json and endpoint.csv.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

from mf_llm import SimulationConfig, load_events, simulate
from mf_llm.atomic_files import write_csv, write_json
from mf_llm.endpoints import Endpoint
from mf_llm.evaluation.provenance import versions
from mf_llm.simulation.engines.endpoint_engine import ROUNDS

ALONE = "the server alone"
COLUMNS = ("asked by", "requests", "requests/s", "of the server alone", "in flight", "lowest", "highest")
PACKAGES = ("huggingface-hub", "numpy")
LETTERS = "ABCDEFGH"


class Server:
    """Answers every chat request with even probabilities of the letters, at most `slots` at once."""

    def __init__(self, slots: int, latency: float) -> None:
        self.slots, self.latency = asyncio.Semaphore(slots), latency
        self.random = random.Random(0)
        top = [{"token": letter, "logprob": -2.5, "bytes": None} for letter in LETTERS]
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "A"},
            "logprobs": {"content": [top[0] | {"top_logprobs": top}]},
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        answer = {"id": "a", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        self.answer = json.dumps(answer | {"usage": usage}).encode()
        self.reset()

    def reset(self) -> None:
        """Counts from nothing."""
        self.first = self.last = self.area = 0.0
        self.requests = self.in_flight = 0

    def count(self, change: int) -> None:
        """One request more or less is in flight."""
        now = time.perf_counter()
        self.first = self.first or now
        self.area += self.in_flight * (now - (self.last or now))
        self.last, self.in_flight = now, self.in_flight + change
        self.requests += change > 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                await reader.readexactly(int(fields.get("content-length", 0)))
                if head.startswith("get"):
                    seconds = self.last - self.first
                    body = json.dumps({"requests": self.requests, "seconds": seconds, "area": self.area}).encode()
                    self.reset()
                else:
                    self.count(1)
                    async with self.slots:
                        await asyncio.sleep(self.latency * (0.5 + self.random.random()))
                    self.count(-1)
                    body = self.answer
                head_of_answer = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
                writer.write(head_of_answer.encode() + b"\r\n\r\n" + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def run_server(slots: int, latency: float, port: Any) -> None:
    """Serves until the process is ended."""

    async def forever() -> None:
        server = await asyncio.start_server(Server(slots, latency).serve, "127.0.0.1", 0, limit=2**20)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def ask_alone(port: int, concurrency: int, n: int) -> None:
    """The same request n times over, from as many connections as there may be requests at a time."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 1000}]}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    left = n

    async def connection() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        writer.close()

    async def everybody() -> None:
        await asyncio.gather(*(connection() for _ in range(concurrency)))

    asyncio.run(everybody())


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=run_server, args=(args.concurrency, args.latency, sender), daemon=True
    )
    process.start()
    port = receiver.recv()
    url = f"http://127.0.0.1:{port}"
    endpoint = Endpoint(f"{url}/v1", "m", concurrency=args.concurrency, top_logprobs=len(LETTERS))
    [survey] = [one for one in load_events("vaccine-intention") if one.event_id == "vaccine-intention-us"]
    [town] = load_events("bridge-closure")
    quiet = {"signal": "statistics", "action": "choice"}
    wave = SimulationConfig(warm_up="w5", max_people_per_step=args.people, **quiet)
    steps = SimulationConfig(max_actions=48 + args.actions, **quiet)
    together = max(1, -(-ROUNDS * args.concurrency // steps.agents_per_step))
    seeds = range(together)
    asking: dict[str, Callable[[], Any]] = {
        ALONE: lambda: ask_alone(port, args.concurrency, args.people),
        "mf_llm, one step": lambda: simulate(endpoint, None, survey, wave, progress=False),
        f"mf_llm, {together} rollouts side by side": lambda: simulate(
            endpoint, None, town, steps, seeds=seeds, events_together=together, progress=False
        ),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in asking}
    try:
        for turn in range(args.repeats):
            for name, ask in list(asking.items())[:: 1 if turn % 2 == 0 else -1]:
                ask()
                with urlopen(f"{url}/stats") as answer:
                    found[name].append(json.load(answer))
    finally:
        process.terminate()
    rows = [_row(name, runs, found[ALONE]) for name, runs in found.items()]
    record = {
        "command": shlex.join(["python", "examples/benchmark_endpoint.py", *_given(args)]),
        "settings": {name: value for name, value in vars(args).items() if name != "output"},
        "rows": rows,
        "runs": found,
        "cores": os.cpu_count(),
        "versions": versions(PACKAGES),
    }
    write_json(args.output / "endpoint.json", record)
    write_csv(args.output / "endpoint.csv", COLUMNS, rows)
    for row in rows:
        print(
            f"{row['asked by']}: {row['requests/s']:.1f} requests/s, {row['of the server alone']:.3f} of the server "
            f"alone [{row['lowest']:.3f}, {row['highest']:.3f}], {row['in flight']:.1f} in flight"
        )
    return 0


def _row(name: str, runs: Sequence[dict[str, float]], alone: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Medians over the turns; the ratio is taken turn by turn."""
    rates = [run["requests"] / run["seconds"] for run in runs]
    ratios = [rate / (one["requests"] / one["seconds"]) for rate, one in zip(rates, alone, strict=True)]
    return {
        "asked by": name,
        "requests": round(median(run["requests"] for run in runs)),
        "requests/s": median(rates),
        "of the server alone": median(ratios),
        "in flight": median(run["area"] / run["seconds"] for run in runs),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def _given(args: argparse.Namespace) -> list[str]:
    names = ("concurrency", "latency", "people", "actions", "repeats")
    return [part for name in names for part in (f"--{name}", str(getattr(args, name)))]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/endpoint"))
    parser.add_argument("--concurrency", type=int, default=32, help="requests at a time")
    parser.add_argument("--latency", type=float, default=0.25, help="mean seconds of an answer")
    parser.add_argument("--people", type=int, default=800, help="people of the large step")
    parser.add_argument("--actions", type=int, default=64, help="simulated actions of each rollout side by side")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
