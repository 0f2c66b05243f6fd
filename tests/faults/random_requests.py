"""Sends random requests made from the OpenAPI document of an endpoint, and checks its responses (Schemathesis).

    python -m tests.faults.random_requests [--cases 2000] [--seed 0] [--json PATH]

Each request either follows the document or violates it in one place. A response must have a status, a media type and a
body of the document; valid requests must be accepted, invalid ones refused, and a 405 must have the header Allow. Links
between operations give sequences: a video is created, polled, fetched and deleted. Starts an endpoint with a small
random bundle in this process.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema

from s2v_ray.serving.api import create_app
from s2v_ray.serving.bundles import LocalBundles
from s2v_ray.serving.service import Service
from s2v_ray.serving.settings import parse_settings
from tests.helpers.bundles import make_bundle
from tests.helpers.http import make_png
from tests.helpers.results import write_result
from tests.helpers.servers import listening
from tests.helpers.sounds import speech, wav

CONTENT_STATUSES = ["2xx", "3xx", "401", "403", "404", "409", "415", "422", "429", "503"]
"""Statuses of requests that follow the document: not 400, which is for requests that do not."""


@dataclass
class Report:
    """What a run found."""

    cases: int = 0
    sequences: int = 0  # of linked requests
    statuses: Counter[str] = field(default_factory=Counter)  # "POST /v1/videos 200" -> number of responses
    failures: list[str] = field(default_factory=list)

    def add(self, recorder: Any) -> None:
        """Adds a group of requests."""
        self.cases += len(recorder.cases)
        self.sequences += any(node.parent_id for node in recorder.cases.values())
        for case_id, interaction in recorder.interactions.items():
            if interaction.response:
                label = recorder.cases[case_id].value.operation.label
                self.statuses[f"{label} {interaction.response.status_code}"] += 1
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info:
                    failure: Failure = check.failure_info.failure
                    interaction = recorder.interactions.get(case_id)
                    body = interaction.response.content[:500] if interaction and interaction.response else b""
                    case = recorder.cases[case_id].value
                    self.failures.append(
                        f"{failure.operation}: {failure.title}: {failure.message}\n"
                        f"request: {case.method} {case.path_parameters} {case.query} {str(case.body)[:800]}\n"
                        f"response: {body!r}"
                    )


def send_random_requests(address: str, token: str, examples: int, seed: int) -> Report:
    """Tests an endpoint.

    Args:
        address: address of the endpoint.
        token: its bearer token.
        examples: largest number of random requests of an operation, and of sequences.
        seed: seed of the requests.
    """
    sounds = [wav(speech(0.04 * frames, frames)) for frames in (1, 2, 5)]
    schemathesis.openapi.media_type("audio/wav", strategies.sampled_from(sounds))
    schemathesis.openapi.media_type("image/png", strategies.just(make_png()))
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "headers": {"Authorization": f"Bearer {token}"},
            "request-timeout": 60,
            "continue-on-failure": True,
            "generation": {"max-examples": examples, "database": "none"},
            "checks": {"positive_data_acceptance": {"expected-statuses": CONTENT_STATUSES}},
        }
    )
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", config=config)
    report = Report()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            report.add(event.recorder)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            report.failures.append(str(event))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="number of requests, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    token = "a-token-of-some-length"
    total = Report()
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder) / "bundle")
        settings = parse_settings({"bundle": bundle, "videos": f"{folder}/videos"})
        with listening(create_app(Service(settings, LocalBundles(settings)), token)) as address:
            while total.cases < args.cases:
                found = send_random_requests(address, token, 50, args.seed)
                args.seed += 1
                total.cases += found.cases
                total.sequences += found.sequences
                total.statuses += found.statuses
                total.failures += found.failures
                print(
                    f"{total.cases} requests, {total.sequences} sequences, {len(total.failures)} failures", flush=True
                )
    for status, count in sorted(total.statuses.items()):
        print(f"{count:6} {status}")
    print("\n\n".join(total.failures))
    figures = {"requests": total.cases, "sequences": total.sequences, "failures": len(total.failures)}
    if args.json:
        write_result(args.json, figures)
    raise SystemExit(bool(total.failures))


if __name__ == "__main__":
    main()
