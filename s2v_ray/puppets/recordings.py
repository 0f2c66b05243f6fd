"""Recordings of people whose voices the puppets have: labelled audio files that are named as those of RAVDESS."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import av
import numpy as np

from s2v_ray import storage
from s2v_ray.media.audio import read_audio
from s2v_ray.media.ravdess import parse_name

AUDIO_SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".oga", ".mp3", ".m4a", ".aac", ".mp4", ".mkv", ".webm")
"""Suffixes of files that are read, in lower case; other files are not recordings."""
MIN_SECONDS = 0.5
"""Shorter recordings are set aside."""
SILENCE = 1e-3
"""Peak below which a recording is set aside."""


@dataclass(frozen=True)
class SetAside:
    """A file that is not used.

    Attributes:
        name: path relative to the folder.
        reason: "other_name", "not_spoken", "duplicate" or "unreadable".
        detail: what was found.
    """

    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Recording:
    """A recording and its labels.

    Attributes:
        uri: of the file.
        name: path relative to the folder.
        actor: number of the actor, from 1; odd ones are male.
        emotion: one of ``media.ravdess.EMOTIONS``.
        sentence: its words.
        strong: whether the emotion is acted strongly.
        take: statement, intensity and repetition; with actor and emotion it is unique.
    """

    uri: str
    name: str
    actor: int
    emotion: str
    sentence: str
    strong: bool
    take: str


@dataclass(frozen=True)
class Recordings:
    """What a folder holds.

    Attributes:
        used: recordings with the wanted emotions, sorted by name.
        other_emotions: number of recordings with other emotions.
        set_aside: files that cannot be used.
    """

    used: list[Recording]
    other_emotions: int
    set_aside: list[SetAside]


class UnusableRecordingError(ValueError):
    """A recording cannot be read, is silent or is too short."""


def list_recordings(uri: str, emotions: Sequence[str]) -> Recordings:
    """Lists the recordings of a folder by their names; nothing is decoded.

    Raises:
        ArtifactError: the folder does not exist or has no recording with one of ``emotions``.
    """
    if not storage.exists(uri):
        raise storage.ArtifactError(f"there are no recordings at {uri}: name their folder in puppets.voices")
    used: dict[tuple[int, str, str], Recording] = {}
    set_aside, others = [], 0
    root = storage.absolute(uri).rstrip("/")
    for file in storage.list_files(root):
        name = file.removeprefix(root).lstrip("/")
        if not name.lower().endswith(AUDIO_SUFFIXES):
            continue
        found = _parse(file, name)
        if isinstance(found, SetAside):
            set_aside.append(found)
        elif found.emotion not in emotions:
            others += 1
        elif (key := (found.actor, found.emotion, found.take)) in used:
            set_aside.append(SetAside(name, "duplicate", f"the same take as {used[key].name}"))
        else:
            used[key] = found
    if not used:
        raise storage.ArtifactError(
            f"{uri} has no recording that can be used: {others} have emotions that puppets.emotions does not list, "
            f"{len(set_aside)} are set aside{_first(set_aside)}"
        )
    return Recordings(list(used.values()), others, set_aside)


def _parse(uri: str, name: str) -> Recording | SetAside:
    said = parse_name(PurePosixPath(name).stem)
    if said is None or said.actor == "00":
        return SetAside(name, "other_name", "the name is not of the form 03-01-EMOTION-INTENSITY-STATEMENT-TAKE-ACTOR")
    if not said.spoken or not said.has_audio:
        return SetAside(name, "not_spoken", "the name says that it is sung, or has no audio")
    take = f"{said.statement:02d}-{said.intensity:02d}-{said.repetition:02d}"
    return Recording(uri, name, int(said.actor), said.emotion, said.sentence, said.intensity == 2, take)


def _first(set_aside: Sequence[SetAside]) -> str:
    return f"; the first: {set_aside[0].name}: {set_aside[0].detail}" if set_aside else ""


def read_recording(recording: Recording) -> np.ndarray:
    """Decodes a recording: float32 ``[N]``, 16 kHz mono in [-1, 1].

    Raises:
        UnusableRecordingError: it cannot be decoded, is silent, cut off or too short.
        StoreError: the object store refuses or does not respond.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = storage.download(recording.uri, folder)
        try:
            audio = read_audio(path)
        except (ValueError, av.FFmpegError) as e:
            raise UnusableRecordingError("it cannot be read as audio") from e
    if audio is None:
        raise UnusableRecordingError("it has no audio track")
    seconds = audio.end - audio.start
    if not audio.complete:
        raise UnusableRecordingError(f"decoding fails after {seconds:.2f} s")
    if not SILENCE <= audio.peak < float("inf"):
        raise UnusableRecordingError("it is silent, or has samples that are not finite")
    if seconds < MIN_SECONDS:
        raise UnusableRecordingError(f"it is {seconds:.2f} s long, at least {MIN_SECONDS} s are needed")
    return audio.samples
