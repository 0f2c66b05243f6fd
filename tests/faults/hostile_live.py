"""Opens hostile live sessions: invalid messages, floods, silence, endless audio, clients that vanish or never read.

    python -m tests.faults.hostile_live [--count 500] [--seed 0] [--json PATH]

Every session must end with the close code and the error code that belong to what the client did, or with one of
overload. Afterwards the endpoint must serve a normal session and have no other one. Otherwise the exit status is 1.
Starts an endpoint with a small random bundle and short limits in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import requests
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from s2v_ray.media.timing import SAMPLE_RATE
from s2v_ray.serving.api import create_app
from s2v_ray.serving.bundles import LocalBundles
from s2v_ray.serving.live_protocol import MAX_CHUNK_BYTES
from s2v_ray.serving.service import Service
from s2v_ray.serving.settings import parse_settings
from tests.helpers.bundles import make_bundle
from tests.helpers.live import pcm
from tests.helpers.results import write_result
from tests.helpers.servers import listening
from tests.helpers.sounds import speech

TOKEN = "a-token-of-some-length"
LIMITS = {"live": 8, "live_seconds": 5, "live_idle_seconds": 3, "upload_mb": 1}
CONCURRENT = 12
"""Sessions at a time: more than are admitted."""
OVERLOAD = {(1013, "too_many_sessions"), (1013, "busy")}
SECONDS = 60.0
"""Longest time for a session to end."""
SOUND = pcm(speech(0.5))

Client = Callable[[ClientConnection, random.Random], Awaitable[None]]
CLIENTS: dict[str, tuple[Client, set[tuple[int, str]]]] = {}
"""Name -> what a client does after the connection is open, and how its session may end."""


def client(*ends: tuple[int, str]) -> Callable[[Client], Client]:
    """Adds a client whose session ends in one of these ways: close code, and error code or ""."""

    def add(function: Client) -> Client:
        CLIENTS[function.__name__] = function, set(ends)
        return function

    return add


async def hello(connection: ClientConnection, **fields: object) -> None:
    await connection.send(json.dumps({"type": "hello", "token": TOKEN, **fields}))


@client((1008, "bad_request"))
async def random_text(connection: ClientConnection, rng: random.Random) -> None:
    await connection.send("".join(chr(rng.randrange(32, 0xD7FF)) for _ in range(rng.randrange(200))))


@client((1008, "bad_request"))
async def audio_first(connection: ClientConnection, rng: random.Random) -> None:
    await connection.send(rng.randbytes(rng.randrange(2000)))


@client((1008, "bad_request"))
async def wrong_types(connection: ClientConnection, rng: random.Random) -> None:
    field = rng.choice(["sample_rate", "quality", "seed", "format", "model", "unknown", "aligned"])
    await hello(connection, **{field: rng.choice([None, [], {}, -1, 1e300])})


@client((1008, "bad_request"))
async def deep_json(connection: ClientConnection, rng: random.Random) -> None:
    depth = rng.randrange(1000, 100_000)
    await connection.send("[" * depth + "]" * depth)


@client((1008, "unauthorized"))
async def wrong_token(connection: ClientConnection, rng: random.Random) -> None:
    await hello(connection, token=rng.choice(["x", "é", TOKEN[:-1], TOKEN + "x"]))


@client((1008, "upload_too_large"))
async def large_hello(connection: ClientConnection, _: random.Random) -> None:
    await hello(connection, face="A" * (2 << 20))


@client((1008, "bad_request"), (1008, "picture_unreadable"))
async def no_picture(connection: ClientConnection, rng: random.Random) -> None:
    text = base64.b64encode(rng.randbytes(500)).decode()
    await hello(connection, take=rng.choice([text, text[1:], "?"]))


@client((1008, "unknown_model"), (1008, "unknown_emotion"))
async def unknown_names(connection: ClientConnection, rng: random.Random) -> None:
    await hello(connection, **{rng.choice(["model", "emotion"]): "../../etc/passwd"})


@client((1008, "session_idle"))
async def no_hello(_: ClientConnection, __: random.Random) -> None:
    pass


@client((1008, "session_idle"))
async def no_audio(connection: ClientConnection, _: random.Random) -> None:
    await hello(connection)


@client((1008, "audio_too_fast"))
async def flood_of_audio(connection: ClientConnection, _: random.Random) -> None:
    await hello(connection)
    for _ in range(20):
        await connection.send(bytes(2 * SAMPLE_RATE))


@client((1008, "audio_too_fast"))
async def flood_of_gaps(connection: ClientConnection, rng: random.Random) -> None:
    await hello(connection)
    await connection.send(json.dumps({"type": "gap", "samples": rng.choice([10**6, 10**12, 10**300])}))


@client((1000, ""))
async def flood_of_acks(connection: ClientConnection, rng: random.Random) -> None:
    await hello(connection)
    for _ in range(2000):
        await connection.send(json.dumps({"type": "ack", "frame": rng.randrange(2**62)}))
    await connection.send(SOUND)
    await connection.send(json.dumps({"type": "end"}))


@client((1000, ""))
async def odd_chunks(connection: ClientConnection, rng: random.Random) -> None:
    await hello(connection)
    data = rng.randbytes(20_001)
    while data:
        size = rng.randrange(0, 999)
        await connection.send(data[:size])
        data = data[size:]
    await connection.send(json.dumps({"type": "end"}))


@client((1008, "bad_request"))
async def large_chunk(connection: ClientConnection, _: random.Random) -> None:
    await hello(connection)
    await connection.send(bytes(MAX_CHUNK_BYTES + 2))


@client((1008, "bad_request"))
async def invalid_messages(connection: ClientConnection, rng: random.Random) -> None:
    await hello(connection)
    await connection.send(SOUND)
    messages = ['{"type": "ack", "frame": -1}', '{"type": "gap", "samples": 0}', '{"type": "hello"}', "null", "{", ""]
    await connection.send(rng.choice(messages))


@client((1008, "bad_request"))
async def audio_after_the_end(connection: ClientConnection, _: random.Random) -> None:
    await hello(connection)
    await connection.send(json.dumps({"type": "end"}))
    await connection.send(SOUND)


@client((1008, "session_too_long"))
async def endless(connection: ClientConnection, _: random.Random) -> None:
    await hello(connection)
    while True:
        await connection.send(SOUND[:1280])
        await asyncio.sleep(0.04)


@client((1006, ""))
async def vanishes(connection: ClientConnection, rng: random.Random) -> None:
    await hello(connection)
    await connection.send(SOUND)
    await asyncio.sleep(0.3 * rng.random())
    connection.transport.abort()


@client((1000, ""), (1006, ""))
async def never_reads(connection: ClientConnection, _: random.Random) -> None:
    await hello(connection)
    connection.transport.pause_reading()
    for _ in range(4):
        await connection.send(SOUND)
    await asyncio.sleep(1.0)
    connection.transport.abort()


@client((1002, ""), (1006, ""), (1007, ""))
async def invalid_frames(connection: ClientConnection, rng: random.Random) -> None:
    await hello(connection)
    connection.transport.write(
        rng.choice([b"\xff\xff" + rng.randbytes(100), b"\x81\x02ab", b"\x81\x82\0\0\0\0\xff\xff"])
    )


async def open_session(address: str, name: str, seed: int) -> str:
    """Opens one session; returns "" or what is wrong."""
    act, expected = CLIENTS[name]
    error = ""
    async with asyncio.timeout(SECONDS), connect(address, max_size=None) as connection:
        acting = asyncio.ensure_future(act(connection, random.Random(seed)))
        try:
            while True:
                message = await connection.recv()
                if isinstance(message, str) and (event := json.loads(message))["type"] == "error":
                    error = event["error"]["code"]
        except ConnectionClosed:
            pass
        finally:
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)
    end = connection.close_code or 1006, error
    return "" if end in expected | OVERLOAD else f"{name} with seed {seed}: {end} instead of {sorted(expected)}"


async def normal_session(address: str) -> str:
    """Opens a session with half a second of speech; returns "" or what is wrong."""
    frames = 0
    async with connect(address) as connection:
        await hello(connection)
        await connection.send(SOUND)
        await connection.send(json.dumps({"type": "end"}))
        async for message in connection:
            frames += isinstance(message, bytes)
    return "" if frames >= 12 and connection.close_code == 1000 else f"a normal session got {frames} frames"


async def open_sessions(address: str, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Opens sessions; returns the number of each kind, and what is wrong."""
    rng, places = random.Random(seed), asyncio.Semaphore(CONCURRENT)
    names = [list(CLIENTS)[i % len(CLIENTS)] for i in range(count)]
    rng.shuffle(names)
    url = f"{address.replace('http', 'ws', 1)}/v1/live"

    async def one(number: int, name: str) -> str:
        async with places:
            try:
                return await open_session(url, name, seed + number)
            except Exception as e:  # whatever a client meets is a finding
                return f"{name} with seed {seed + number}: {type(e).__name__}: {e}"

    found = await asyncio.gather(*(one(number, name) for number, name in enumerate(names)))
    await asyncio.sleep(2.0)
    return Counter(names), [*filter(None, found), *filter(None, [await normal_session(url)])]


def run(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Starts an endpoint and opens sessions; returns the number of each kind, and what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        settings = parse_settings({"bundle": make_bundle(Path(folder) / "bundle"), "limits": LIMITS})
        with listening(create_app(Service(settings, LocalBundles(settings)), TOKEN)) as address:
            names, problems = asyncio.run(open_sessions(address, count, seed))
            metrics = requests.get(f"{address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30).text
    if "\ns2v_live_sessions 0.0" not in metrics:
        problems.append("there is still a live session")
    if 's2v_refused_total{code="internal"}' in metrics:
        problems.append("there was an internal error")
    return names, problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names, problems = run(args.count, args.seed)
    for name, count in sorted(names.items()):
        print(f"{count:5} {name}")
    print(f"{args.count} sessions, {len(problems)} problems", *problems, sep="\n")
    if args.json:
        write_result(args.json, {"sessions": args.count, "problems": len(problems)})
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
