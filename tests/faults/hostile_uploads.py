"""Sends hostile requests to an endpoint: fuzzed and truncated files, decompression bombs, wrong types, broken forms.

    python -m tests.faults.hostile_uploads http://127.0.0.1:8000 [--count 500] [--seed 0]

Some also close their connection, or send slowly. Every response must be a documented error with its status and a
message of one line, or a video if the file happens to be valid; afterwards the endpoint must still answer. Otherwise
the exit status is 1.
"""

from __future__ import annotations

import argparse
import io
import random
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import av
import cv2
import numpy as np
import requests

from s2v_ray.serving.errors import CODES
from tests.helpers import sounds

HEAD = (
    b"POST /v1/videos/sync HTTP/1.1\r\nHost: x\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
)
Files = dict[str, tuple[str, bytes]]


def wav() -> bytes:
    """Half a second of quiet noise."""
    return sounds.wav(sounds.speech(0.5))


def encoded(container: str, codec: str, seconds: int, rate: int) -> bytes:
    """Silence."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        for i in range(seconds):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, rate), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, i * rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def png(width: int, height: int) -> bytes:
    """A PNG whose header has this size, and whose data does not match it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1_000_000), 9))
        + chunk(b"IEND", b"")
    )


class Attacks:
    def __init__(self, address: str, seed: int) -> None:
        self.address, self.random = address, random.Random(seed)
        self.sound = [
            wav(),
            encoded("mp3", "libmp3lame", 1, 16000),
            encoded("flac", "flac", 1, 16000),
            encoded("ogg", "libopus", 1, 48000),
        ]
        self.sound += [encoded("mp4", "aac", 1, 44100), encoded("matroska", "libopus", 1, 48000)]
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        self.pictures = [cv2.imencode(e, noise)[1].tobytes() for e in (".jpg", ".png", ".webp")]
        self.bombs = [
            encoded("flac", "flac", 3600, 8000),
            encoded("ogg", "libopus", 1800, 48000),
            encoded("mp3", "libmp3lame", 1800, 8000),
        ]
        self.kinds: list[Callable[[], object]] = [
            self.fuzzed, self.fuzzed, self.fuzzed, self.cut, self.fuzzed_picture, self.bomb, self.picture_bomb,
            self.wrong_type, self.odd_wav, self.odd_fields, self.broken_form, self.cut_body,
            self.garbage_http, self.slow_sender,
        ]  # fmt: skip

    def post(self, files: Files, **data: str) -> requests.Response:
        return requests.post(f"{self.address}/v1/videos/sync", files=files, data=data, timeout=120)

    def mutate(self, data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(self.random.choice((1, 4, 30))):
            out[self.random.randrange(min(len(out), self.random.choice((64, 400, len(out)))))] = self.random.randrange(
                256
            )
        return bytes(out)

    def fuzzed(self) -> object:
        return self.post({"speech": ("s", self.mutate(self.random.choice(self.sound)))})

    def cut(self) -> object:
        data = self.random.choice(self.sound)
        return self.post({"speech": ("s", data[: self.random.randrange(len(data))])})

    def fuzzed_picture(self) -> object:
        return self.post(
            {"speech": ("s", wav()), "face": ("f", self.mutate(self.random.choice(self.pictures)))}, aligned="true"
        )

    def bomb(self) -> object:
        return self.post({"speech": ("s", self.random.choice(self.bombs))})

    def picture_bomb(self) -> object:
        return self.post(
            {
                "speech": ("s", wav()),
                "face": ("f", png(*self.random.choice([(60000, 60000), (4000, 4000), (2**31 - 1, 1), (0, 0)]))),
            }
        )

    def wrong_type(self) -> object:
        texts = [
            b"",
            b"#!/bin/sh\nreboot\n",
            b"#EXTM3U\nfile:///etc/passwd\n",
            b"PK\x03\x04" + bytes(500),
            b"<svg onload=alert(1)>",
            bytes(5000),
        ]
        return self.post(
            {"speech": (self.random.choice(["../../etc/passwd", "s3://x/y", "a\x00b.wav"]), self.random.choice(texts))}
        )

    def odd_wav(self) -> object:
        data = bytearray(wav())
        struct.pack_into(
            "<I", data, 24, self.random.choice([0, 1, 16001, 44101, 192000, 2**31, 2**32 - 1])
        )  # sample rate
        struct.pack_into("<H", data, 22, self.random.choice([0, 1, 2, 7, 255, 65535]))  # channels
        return self.post({"speech": ("s", bytes(data))})

    def odd_fields(self) -> object:
        field = self.random.choice(["seed", "size", "model", "emotion", "stream", "zzz", "__class__"])
        return self.post(
            {"speech": ("s", wav())},
            **{field: self.random.choice(["-1", "9" * 400, "../../x", "\x00", "{{7*7}}", "NaN", "'" * 50])},
        )

    def broken_form(self) -> object:
        part = b"--x\r\nContent-Disposition: form-data; name=speech\r\n\r\n" + bytes(99)
        kinds = [
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "application/json",
            "text/plain",
            "multipart/form-data; boundary=",
        ]
        body, kind = (
            self.random.choice([b"", b"--x", b"--x\r\n\r\n--x--\r\n", part, bytes(9999)]),
            self.random.choice(kinds),
        )
        return requests.post(f"{self.address}/v1/videos/sync", data=body, headers={"Content-Type": kind}, timeout=60)

    def raw(self, sent: list[bytes], pause: float = 0.0) -> str:
        parts = urlsplit(self.address)
        with socket.create_connection((parts.hostname, parts.port), 30) as connection:
            for data in sent:
                connection.sendall(data)
                time.sleep(pause)
        return "connection left"

    def cut_body(self) -> object:
        return self.raw(
            [
                HEAD % self.random.randrange(1000, 10**7),
                b"--x\r\nContent-Disposition: form-data; name=speech; filename=s\r\n\r\nRIFF" + bytes(400),
            ]
        )

    def garbage_http(self) -> object:
        negative = b"POST /v1/videos/sync HTTP/1.1\r\nContent-Length: -5\r\n\r\n"
        return self.raw(
            [self.random.choice([bytes(300), b"GET / HTTP/9.9\r\n\r\n", negative, b"\x16\x03\x01\x02\x00"])]
        )

    def slow_sender(self) -> object:
        return self.raw([HEAD % 5000, *[b"-"] * 5], pause=0.4)


def verdict(answer: object) -> tuple[str, str]:
    """The outcome of a request, and what is wrong with it ("" if nothing is)."""
    if not isinstance(answer, requests.Response):
        return str(answer), ""
    if answer.status_code == 200:
        return "200", "" if answer.content[4:8] == b"ftyp" else "200 without a video"
    try:
        error = answer.json()["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        return str(answer.status_code), f"{answer.status_code} without a code: {answer.content[:200]!r}"
    known = code in CODES and CODES[code].status == answer.status_code
    if not known or not message or "\n" in message or "Traceback" in message:
        return code, f"{answer.status_code} {code} {message!r}"
    return code, "" if code != "internal" else f"an internal error: {answer.request.headers}"


def run(address: str, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Counts of outcomes, and what was wrong."""
    attacks = Attacks(address, seed)
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []

    def attack(n: int) -> None:
        kind = attacks.kinds[n % len(attacks.kinds)]
        try:
            outcome, fault = verdict(kind())
        except requests.RequestException as e:
            outcome, fault = "dropped", f"{kind.__name__}: {type(e).__name__}: {e}"
        outcomes[f"{kind.__name__}: {outcome}"] += 1
        if fault:
            wrong.append(f"{kind.__name__}: {fault}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attack, range(count)))
    try:
        after = attacks.post({"speech": ("s", wav())})
        if after.status_code != 200:
            wrong.append(f"afterwards: {after.status_code} {after.text[:200]}")
    except requests.RequestException as e:
        wrong.append(f"afterwards: {e}")
    return outcomes, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    outcomes, wrong = run(args.address, args.count, args.seed)
    for name, number in sorted(outcomes.items()):
        print(f"{number:5}  {name}")
    for line in wrong:
        print("WRONG", line)
    print(f"{outcomes.total()} requests, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
