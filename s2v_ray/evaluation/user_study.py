"""The user study: who looks real, and what do they feel? Pairs and single clips in an order of one's own, and answers that stay.

STUDY/manifest.json                 seed, trials, emotions, and for each item the file of each condition
STUDY/clips/<name>.mp4              names tell nothing
STUDY/answers/<participant>/<trial>.json   one object an answer, whole or not there
"""

from __future__ import annotations

import re
import secrets
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import combinations
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.config import Section
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from s2v_ray.media.video import SYNTHETIC, write_mp4
from s2v_ray.serving.errors import Refusal

SCHEMA = 1
REAL, REFERENCE, SPEECH = "real clip", "reference baseline", "speech only"
_PARTICIPANT = re.compile(r"[0-9a-f]{32}")


class Trial(Section):
    """One question. ``clips``: conditions of one item, as shown from left to right."""

    trial: int
    kind: Literal["pair", "emotion"]
    item: int
    clips: tuple[str, ...]


class Answer(Section):
    """What a participant says: left or right of a pair, or the name of an emotion."""

    participant: str
    trial: int
    answer: str
    milliseconds: int = 0


def make_study(
    corpus: str,
    out: str,
    bundle: str,
    reference: str | None = None,
    *,
    split: str = "test",
    clips: int = 20,
    pairs: int = 15,
    singles: int = 15,
    seed: int = 0,
    progress: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Makes the clips of a study from held-out ones; returns its manifest.

    Args:
        clips: items, each one clip as it was recorded, drawn from its speech alone and, with ``reference``, drawn by the reference baseline.
        pairs, singles: questions that each participant gets.

    Raises:
        ArtifactError: no corpus, no bundle; or a study is there already: its answers belong to its clips.
    """
    if storage.exists(storage.join(out, storage.MANIFEST)):
        raise storage.ArtifactError(f"there is a study at {out} already: name another folder")
    drawers = {SPEECH: Predictor(bundle)} | ({REFERENCE: Predictor(reference)} if reference else {})
    if drawers[SPEECH].reference or not all(p.reference for name, p in drawers.items() if name == REFERENCE):
        raise ValueError(
            "--bundle takes a bundle trained from speech alone, --reference-bundle one trained with a still (s2v train --reference)"
        )
    found = shards.read_clips(corpus, split)
    chosen = np.random.default_rng(seed).permutation(len(found))[:clips]
    items = []
    with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
        for n, clip in enumerate(found[i] for i in sorted(chosen)):
            items.append(
                {
                    "clip": clip.id,
                    "speaker": clip.speaker,
                    "emotion": clip.emotion,
                    "clips": _write(clip, out, drawers, seed, Path(folder)),
                }
            )
            progress(f"study: {n + 1} of {len(chosen)} clips")
    emotions = sorted({i["emotion"] for i in items if i["emotion"]})
    parents = {"corpus": shards.read_corpus_manifest(corpus)["digest"]} | {
        name: p.card["sha256"] for name, p in drawers.items()
    }
    fields = {
        "seed": seed,
        "pairs": pairs,
        "singles": singles if len(emotions) > 1 else 0,
        "emotions": emotions,
        "items": items,
    }
    return storage.write_manifest(
        out, "study", SCHEMA, config_digest=drawers[SPEECH].card["config_digest"], parents=parents, **fields
    )


def _write(clip: Clip, out: str, drawers: dict[str, Predictor], seed: int, folder: Path) -> dict[str, str]:
    """Condition -> name of its file."""
    shown = {REAL: [clip.frames]}
    for name, predictor in drawers.items():
        shown[name] = list(
            predictor.generate(
                GenerationRequest(clip.speech, still=clip.frames[0] if predictor.reference else None, seed=seed)
            )
        )
    names = {}
    for condition, parts in shown.items():
        names[condition] = f"{secrets.token_hex(8)}.mp4"
        frames = np.concatenate(parts)
        speech = clip.speech[: len(frames) * SAMPLES_PER_FRAME]
        write_mp4(folder / "made.mp4", frames, speech, metadata=None if condition == REAL else SYNTHETIC)
        storage.write_bytes(storage.join(out, "clips", names[condition]), (folder / "made.mp4").read_bytes())
    return names


class Study:
    """A study that is being answered.

    Raises:
        ArtifactError: there is none at ``uri``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.manifest = storage.read_manifest(uri, "study", SCHEMA)
        self._files = {name for item in self.manifest["items"] for name in item["clips"].values()}

    def trials(self, participant: str) -> list[Trial]:
        """The questions of a participant, in an order that follows from the study's seed and the participant alone.

        Every comparison, and every condition alone, comes equally often, to within one.
        """
        rng = np.random.default_rng([self.manifest["seed"], int(participant, 16)])
        items = self.manifest["items"]
        conditions = [c for c in (REAL, REFERENCE, SPEECH) if c in items[0]["clips"]]
        kinds: list[tuple[Literal["pair", "emotion"], list[tuple[str, ...]], int]] = [
            ("pair", list(combinations(conditions, 2)), self.manifest["pairs"]),
            ("emotion", [(c,) for c in conditions], self.manifest["singles"]),
        ]
        trials: list[Trial] = []
        for kind, shown, count in kinds:
            usable = [i for i, item in enumerate(items) if kind == "pair" or item["emotion"]]
            order = rng.permutation(len(shown))
            for n in range(count if usable else 0):
                clips = shown[order[n % len(shown)]]
                trials.append(
                    Trial(
                        trial=0, kind=kind, item=int(rng.choice(usable)), clips=tuple(rng.permutation(clips).tolist())
                    )
                )
        return [trials[i].model_copy(update={"trial": n}) for n, i in enumerate(rng.permutation(len(trials)))]

    def begin(self, participant: str | None) -> dict[str, Any]:
        """What the page needs: participant (a new one unless given), emotions, trials with the files to show, and which have an answer.

        Raises:
            Refusal: bad_request.
        """
        participant = secrets.token_hex(16) if participant is None else _checked(participant)
        items = self.manifest["items"]
        trials = [
            {"trial": t.trial, "kind": t.kind, "clips": [items[t.item]["clips"][c] for c in t.clips]}
            for t in self.trials(participant)
        ]
        answers = storage.list_files(storage.join(self.uri, "answers", participant), ".json")
        answered = sorted(int(uri.rpartition("/")[2].removesuffix(".json")) for uri in answers)
        return {
            "participant": participant,
            "emotions": self.manifest["emotions"],
            "trials": trials,
            "answered": answered,
        }

    def clip(self, name: str) -> bytes:
        """The MP4 of that name.

        Raises:
            Refusal: not_found.
        """
        if name not in self._files:
            raise Refusal("not_found", "the study has no such clip")
        return storage.read_bytes(storage.join(self.uri, "clips", name))

    def answer(self, answer: Answer) -> None:
        """Keeps an answer: when this returns it is on disk, or in the object store.

        Raises:
            Refusal: bad_request, already_answered.
        """
        trials = self.trials(_checked(answer.participant))
        if not 0 <= answer.trial < len(trials):
            raise Refusal("bad_request", f"trial: there are trials 0 to {len(trials) - 1}")
        trial = trials[answer.trial]
        allowed = ["left", "right"] if trial.kind == "pair" else self.manifest["emotions"]
        if answer.answer not in allowed:
            raise Refusal("bad_request", f"answer: one of {', '.join(allowed)}")
        uri = storage.join(self.uri, "answers", answer.participant, f"{answer.trial}.json")
        if storage.exists(uri):
            raise Refusal("already_answered", f"trial {answer.trial} has an answer already")
        storage.write_json(
            uri,
            answer.model_dump()
            | trial.model_dump(mode="json")
            | {"truth": self.manifest["items"][trial.item]["emotion"]},
        )


def _checked(participant: str) -> str:
    if not _PARTICIPANT.fullmatch(participant):
        raise Refusal("bad_request", "participant: take the one that GET /v1/study gave you")
    return participant


def report(uri: str) -> dict[str, Any]:
    """What the answers say: participants, answers; preference of every pair of conditions, and emotions named right in each condition.

    Shares come with Wilson's 95% interval, which takes answers as independent: with few participants it is too narrow.

    Raises:
        ArtifactError: there is no study, or an answer is damaged.
    """
    storage.read_manifest(uri, "study", SCHEMA)
    answers = [storage.read_json(u) for u in storage.list_files(storage.join(uri, "answers"), ".json")]
    preferred: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    named: dict[str, Counter[bool]] = defaultdict(Counter)
    for a in answers:
        if a["kind"] == "pair":
            first, second = sorted(a["clips"], key=(REAL, REFERENCE, SPEECH).index)
            preferred[first, second][a["clips"][0 if a["answer"] == "left" else 1]] += 1
        else:
            named[a["clips"][0]][a["answer"] == a["truth"]] += 1
    return {
        "participants": len({a["participant"] for a in answers}),
        "answers": len(answers),
        "preference": [
            {"condition": a, "over": b, **wilson(won[a], won.total())} for (a, b), won in sorted(preferred.items())
        ],
        "emotion": [{"condition": c, **wilson(right[True], right.total())} for c, right in sorted(named.items())],
    }


def wilson(successes: int, count: int, z: float = 1.959964) -> dict[str, Any]:
    """Share of successes with Wilson's score interval (Wilson 1927, JASA 22)."""
    share, over = successes / count, z * z / count
    centre = (share + over / 2) / (1 + over)
    half = z * sqrt(share * (1 - share) / count + over / count / 4) / (1 + over)
    return {"share": share, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "count": count}


def format_report(result: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = [f"{result['participants']} participants, {result['answers']} answers; share and 95% interval"]
    rows = [(f"{r['condition']} taken for the more natural, over {r['over']}", r) for r in result["preference"]]
    rows += [(f"emotion named right: {r['condition']}", r) for r in result["emotion"]]
    width = max((len(name) for name, _ in rows), default=0)
    lines += [
        f"{name:{width}}  {r['share']:.3f}  {r['low']:.3f} to {r['high']:.3f}  of {r['count']}" for name, r in rows
    ]
    return "\n".join(lines)
