"""Sources: readers of a data set's layout. They list where clips are and what is known about them, and decode nothing.

A source is a ``Source`` in the table of ``register_source``. To add one, in this package or in a module of your own
that the recipe names under ``plugins``::

    from pathlib import PurePosixPath
    from s2v_ray.ingest.sources import Source, SourceClip, register_source, video_files

    def read(root, files):
        return [SourceClip(f.uri, f.name, speaker=PurePosixPath(f.name).stem[:2]) for f in video_files(files)]

    register_source("mine", Source(read))

Then ``ingest.source: mine`` selects it. With ``matches``, ``ingest.source: auto`` finds it as well.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from s2v_ray import storage
from s2v_ray.media import ravdess

AUTO = "auto"
"""Value of ``ingest.source`` that selects the first registered source whose ``matches`` is true."""
FALLBACK = "folder"
"""The source that ``AUTO`` selects if no other matches."""
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".mkv", ".webm", ".avi", ".flv", ".f4v", ".wmv",
    ".asf", ".ts", ".mts", ".m2ts", ".vob", ".ogv", ".3gp", ".3g2", ".mxf", ".nut", ".rm", ".rmvb", ".dv",
)  # fmt: skip
"""Suffixes of video files, in lower case."""


@dataclass(frozen=True)
class SourceClip:
    """A video file and its labels in the data set.

    Attributes:
        uri: the video.
        name: path relative to the source.
        speaker: never empty.
        emotion: "" if the data set does not give it.
        sentence: the words, an identifier of them, or "".
        ground_truth: URI of a JSON file with the face's landmarks (``s2v_ray.puppets``), or "": a detector finds them.
        audio_delay: frames by which the audio comes after the video, as measured (``ingest.offset``). ``TemporalAlign``
            corrects it.
        sync_confidence: confidence with which the offset of this file was measured (``ingest.min_sync``), or None.
    """

    uri: str
    name: str
    speaker: str
    emotion: str = ""
    sentence: str = ""
    ground_truth: str = ""
    audio_delay: int = 0
    sync_confidence: float | None = None


class SourceFile(NamedTuple):
    """A file under a source's folder: path relative to it, with slashes, and URI."""

    name: str
    uri: str


@dataclass(frozen=True)
class Source:
    """Reader of one layout.

    Attributes:
        read: called with the URI of the folder and all its files, sorted; returns the clips.
        matches: called with the files; whether the folder has this layout. None: only chosen by name.
    """

    read: Callable[[str, Sequence[SourceFile]], list[SourceClip]]
    matches: Callable[[Sequence[SourceFile]], bool] | None = None


_SOURCES: dict[str, Source] = {}


def register_source(name: str, source: Source) -> None:
    """Makes ``source`` available as ``ingest.source: NAME``.

    Raises:
        ValueError: another source has this name.
    """
    if name == AUTO or _SOURCES.get(name, source) != source:
        raise ValueError(f"there is a source {name!r} already: register yours under another name")
    _SOURCES[name] = source


def registered_sources() -> list[str]:
    """Returns the names of all sources, in the order in which ``auto`` tries them."""
    return [*(name for name in _SOURCES if name != FALLBACK), FALLBACK]


def get_source(name: str) -> Source:
    """Looks up a source by name.

    Raises:
        ValueError: there is no such source.
    """
    if name not in _SOURCES:
        known = ", ".join([AUTO, *registered_sources()])
        raise ValueError(
            f"ingest.source: there is no source {name!r}; known are {known}. "
            "A source of your own needs its module in the recipe's list of plugins"
        )
    return _SOURCES[name]


def list_clips(uri: str, source: str = AUTO) -> tuple[str, list[SourceClip]]:
    """Lists the clips of a source.

    Args:
        uri: folder (local or ``s3://``).
        source: name of a registered source, or "auto".

    Returns:
        the name of the source, and its clips sorted by name.

    Raises:
        ArtifactError: the folder does not exist or contains no video of that layout.
        ValueError: there is no source of that name.
    """
    if source != AUTO:
        get_source(source)  # before any request to the storage
    if not storage.exists(uri):
        raise storage.ArtifactError(f"there is no source at {uri}")
    files = [SourceFile(_relative_name(uri, f), f) for f in storage.list_files(uri)]
    if source == AUTO:
        source = _detect_source(files)
    clips = sorted(get_source(source).read(uri, files), key=lambda clip: clip.name)
    if not clips:
        raise storage.ArtifactError(f"the source {uri} is empty: no video of the layout {source!r} is there")
    return source, clips


def _detect_source(files: Sequence[SourceFile]) -> str:
    for name in registered_sources():
        matches = _SOURCES[name].matches
        if matches is not None and matches(files):
            return name
    return FALLBACK


def _relative_name(root: str, uri: str) -> str:
    fs, root_path = storage.filesystem(root)
    _, path = storage.filesystem(uri)
    if path == root_path:
        return Path(path).name
    return Path(os.path.relpath(path, root_path)).as_posix()


def video_files(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Returns the video files; files whose name starts with a dot are skipped."""
    return [f for f in files if f.name.lower().endswith(VIDEO_SUFFIXES) and not _basename(f.name).startswith(".")]


def folder_speaker(root: str, name: str) -> str:
    """Returns the file's folder as the speaker's name; the source's own name for files directly in it."""
    folder = PurePosixPath(name).parent.as_posix()
    return folder if folder != "." else _basename(storage.absolute(root).rstrip("/"))


def _basename(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _mostly(files: Sequence[SourceFile], fits: Callable[[str], object]) -> bool:
    """Whether ``fits`` is true for the name of more than half of the videos."""
    videos = video_files(files)
    return bool(videos) and sum(bool(fits(f.name)) for f in videos) > len(videos) / 2


# ---- a plain folder


def _read_folder(root: str, files: Sequence[SourceFile]) -> list[SourceClip]:
    """One folder per speaker; videos directly in the source belong to one speaker that is named after it."""
    return [SourceClip(f.uri, f.name, folder_speaker(root, f.name)) for f in video_files(files)]


# ---- puppets


def _is_puppets(files: Sequence[SourceFile]) -> bool:
    manifest = dict(files).get(storage.MANIFEST)
    return manifest is not None and storage.read_json(manifest).get("kind") == "puppets"


def _read_puppets(root: str, files: Sequence[SourceFile]) -> list[SourceClip]:
    """Videos of ``s2v_ray.puppets``, each with a file of ground truth beside it."""
    uris = dict(files)
    clips = []
    for name, uri in video_files(files):
        truth_uri = uris.get(f"{name.removesuffix(PurePosixPath(name).suffix)}.json", "")
        truth = storage.read_json(truth_uri) if truth_uri else {}
        speaker = truth.get("speaker", folder_speaker(root, name))
        clips.append(SourceClip(uri, name, speaker, truth.get("emotion", ""), truth.get("sentence", ""), truth_uri))
    return clips


# ---- GRID (Cooke et al. 2006): sentences of six words, each coded by a character of the file's name

_GRID_NAME = re.compile(r"(?:^|_)([blps])([bgrw])([abiw])([a-vx-z])([z1-9])([anps])$")
_DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_GRID_WORDS: tuple[dict[str, str], ...] = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {},
    {"z": "zero"} | {str(i): word for i, word in enumerate(_DIGITS, 1)},
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)


def _grid_sentence(name: str) -> str:
    match = _GRID_NAME.search(_stem(name).lower())
    return " ".join(words.get(c, c) for words, c in zip(_GRID_WORDS, match.groups(), strict=True)) if match else ""


def _is_grid(files: Sequence[SourceFile]) -> bool:
    return _mostly(files, _grid_sentence)


def _read_grid(root: str, files: Sequence[SourceFile]) -> list[SourceClip]:
    """One folder per speaker; in a folder with a ``sources.csv`` (columns ``file``, ``speaker``), the speakers in it.

    GRID has no acted emotions, so the emotion stays empty.
    """
    names = {f.name for f in files}
    speakers: dict[str, str] = {}
    for name, uri in files:
        if _basename(name) == "sources.csv":
            folder = PurePosixPath(name).parent
            for row in csv.DictReader(io.StringIO(storage.read_bytes(uri).decode("utf-8-sig"))):
                listed = Path(os.path.normpath(folder / (row.get("file") or ""))).as_posix()
                if listed in names and row.get("speaker"):
                    speakers[listed] = row["speaker"]
    return [
        SourceClip(f.uri, f.name, speakers.get(f.name) or folder_speaker(root, f.name), "", _grid_sentence(f.name))
        for f in video_files(files)
    ]


# ---- CREMA-D (Cao et al. 2014): 1001_DFA_ANG_XX.flv = actor, sentence, emotion, level

_CREMAD_NAME = re.compile(r"^(\d{4})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)$")
_CREMAD_EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgusted",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
_CREMAD_SENTENCES = {
    "IEO": "it's eleven o'clock",
    "TIE": "that is exactly what happened",
    "IOM": "i'm on my way to the meeting",
    "IWW": "i wonder what this is about",
    "TAI": "the airplane is almost full",
    "MTI": "maybe tomorrow it will be cold",
    "IWL": "i would like a new alarm clock",
    "ITH": "i think i have a doctor's appointment",
    "DFA": "don't forget a jacket",
    "ITS": "i think i've seen this before",
    "TSI": "the surface is slick",
    "WSI": "we'll stop in a couple of minutes",
}


def _is_cremad(files: Sequence[SourceFile]) -> bool:
    return _mostly(files, lambda name: _CREMAD_NAME.match(_stem(name)))


def _read_cremad(_root: str, files: Sequence[SourceFile]) -> list[SourceClip]:
    """Labels from the names of the files; videos with other names do not belong to the data set."""
    return [
        SourceClip(f.uri, f.name, m[1], _CREMAD_EMOTIONS[m[3]], _CREMAD_SENTENCES.get(m[2], m[2]))
        for f in video_files(files)
        if (m := _CREMAD_NAME.match(_stem(f.name)))
    ]


# ---- RAVDESS (Livingstone and Russo 2018), see media.ravdess


def _is_ravdess(files: Sequence[SourceFile]) -> bool:
    return _mostly(files, lambda name: ravdess.parse_name(_stem(name)))


def _read_ravdess(_root: str, files: Sequence[SourceFile]) -> list[SourceClip]:
    """Spoken takes with video and audio (01-01-...); those without audio (02-) and the sung ones are skipped."""
    clips = []
    for name, uri in video_files(files):
        said = ravdess.parse_name(_stem(name))
        if said is not None and said.modality == 1 and said.spoken:
            clips.append(SourceClip(uri, name, said.actor, said.emotion, said.sentence))
    return clips


register_source("puppets", Source(_read_puppets, _is_puppets))
register_source("cremad", Source(_read_cremad, _is_cremad))
register_source("ravdess", Source(_read_ravdess, _is_ravdess))
register_source("grid", Source(_read_grid, _is_grid))
register_source(FALLBACK, Source(_read_folder))
