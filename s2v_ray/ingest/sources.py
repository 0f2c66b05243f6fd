"""Sources: readers of one data set's layout. Each says where clips are and what is known of them; none touches a pixel.

Adding one is a function ``list of files -> list of SourceClip``, a test that knows its layout, and a line in ``SOURCES``.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from s2v_ray import storage

VIDEO_SUFFIXES = (
    *(
        ".mp4",
        ".m4v",
        ".mov",
        ".mpg",
        ".mpeg",
        ".mpe",
        ".m1v",
        ".m2v",
        ".mkv",
        ".webm",
        ".avi",
        ".flv",
        ".f4v",
        ".wmv",
        ".asf",
    ),
    *(".ts", ".mts", ".m2ts", ".vob", ".ogv", ".3gp", ".3g2", ".mxf", ".nut", ".rm", ".rmvb", ".dv"),
)


@dataclass(frozen=True)
class SourceClip:
    """A video file and what its data set says of it.

    Attributes:
        uri: the video.
        name: the same, relative to the source, as a person would look it up.
        speaker: never empty.
        emotion: "" where the data set does not say.
        sentence: the words, or a key of them, or "".
        truth: URI of a JSON file with the face's landmarks (``s2v_ray.puppets``), or "": a detector must look.
        late: frames by which the sound comes after the picture, as measured (``ingest.offset``); placing the clip corrects it.
    """

    uri: str
    name: str
    speaker: str
    emotion: str = ""
    sentence: str = ""
    truth: str = ""
    late: int = 0


@dataclass(frozen=True)
class Source:
    """One layout: ``matches`` tells it by its files, ``read`` lists its clips. Both get (relative name, URI) pairs, sorted."""

    matches: Callable[[list[tuple[str, str]]], bool]
    read: Callable[[str, list[tuple[str, str]]], list[SourceClip]]


def list_clips(uri: str, source: str = "auto") -> tuple[str, list[SourceClip]]:
    """Lists the clips of a source.

    Args:
        uri: folder (local or ``s3://``).
        source: a key of ``SOURCES``, or "auto".

    Returns:
        the layout's name, and its clips in order of their names.

    Raises:
        ArtifactError: nothing is there, or no video of that layout.
    """
    if not storage.exists(uri):
        raise storage.ArtifactError(f"there is no source at {uri}")
    files = [(_relative(uri, f), f) for f in storage.list_files(uri)]
    if source == "auto":
        source = next(name for name, layout in SOURCES.items() if layout.matches(files))
    clips = sorted(SOURCES[source].read(uri, files), key=lambda c: c.name)
    if not clips:
        raise storage.ArtifactError(f"the source {uri} is empty: no video of the layout {source!r} is there")
    return source, clips


def _relative(root: str, uri: str) -> str:
    fs, root_path = storage.filesystem(root)
    _, path = storage.filesystem(uri)
    return os.path.relpath(path, root_path).replace(os.sep, "/") if path != root_path else os.path.basename(path)


def _videos(files: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(n, u) for n, u in files if n.lower().endswith(VIDEO_SUFFIXES) and not os.path.basename(n).startswith(".")]


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


def _folder_speaker(root: str, name: str) -> str:
    return os.path.dirname(name) or os.path.basename(storage.absolute(root).rstrip("/"))


# ---- a plain folder


def _read_folder(root: str, files: list[tuple[str, str]]) -> list[SourceClip]:
    """A folder for each speaker; videos that lie directly in the source are one speaker's, named after it."""
    return [SourceClip(u, n, _folder_speaker(root, n)) for n, u in _videos(files)]


# ---- puppets


def _is_puppets(files: list[tuple[str, str]]) -> bool:
    manifest = dict(files).get(storage.MANIFEST)
    return manifest is not None and storage.read_json(manifest).get("kind") == "puppets"


def _read_puppets(root: str, files: list[tuple[str, str]]) -> list[SourceClip]:
    """``s2v_ray.puppets``: a truth file beside each video."""
    known = dict(files)
    clips = []
    for name, uri in _videos(files):
        truth_uri = known.get(f"{os.path.splitext(name)[0]}.json", "")
        truth = storage.read_json(truth_uri) if truth_uri else {}
        clips.append(
            SourceClip(
                uri,
                name,
                truth.get("speaker", _folder_speaker(root, name)),
                truth.get("emotion", ""),
                truth.get("sentence", ""),
                truth_uri,
            )
        )
    return clips


# ---- GRID (Cooke et al. 2006): six words a sentence, spelt as six characters in the file's name

_GRID_NAME = re.compile(r"(?:^|_)([blps])([bgrw])([abiw])([a-vx-z])([z1-9])([anps])$")
_GRID_WORDS: tuple[dict[str, str], ...] = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {},
    {
        "z": "zero",
        "1": "one",
        "2": "two",
        "3": "three",
        "4": "four",
        "5": "five",
        "6": "six",
        "7": "seven",
        "8": "eight",
        "9": "nine",
    },
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)


def _grid_sentence(name: str) -> str:
    match = _GRID_NAME.search(_stem(name).lower())
    return " ".join(words.get(c, c) for words, c in zip(_GRID_WORDS, match.groups(), strict=True)) if match else ""


def _read_grid(root: str, files: list[tuple[str, str]]) -> list[SourceClip]:
    """A folder for each speaker; or, where a ``sources.csv`` (columns ``file``, ``speaker``) lies in a folder, what it says.

    GRID has no acted emotion: none is claimed.
    """
    known = dict(files)
    speakers: dict[str, str] = {}
    for name, uri in files:
        if os.path.basename(name) == "sources.csv":
            for row in csv.DictReader(io.StringIO(storage.read_bytes(uri).decode("utf-8-sig"))):
                listed = os.path.normpath(os.path.join(os.path.dirname(name), row.get("file") or "")).replace(
                    os.sep, "/"
                )
                if listed in known and row.get("speaker"):
                    speakers[listed] = row["speaker"]
    return [
        SourceClip(u, n, speakers.get(n) or _folder_speaker(root, n), "", _grid_sentence(n)) for n, u in _videos(files)
    ]


def _is_grid(files: list[tuple[str, str]]) -> bool:
    return _mostly(_videos(files), lambda n: bool(_grid_sentence(n)))


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


def _read_cremad(root: str, files: list[tuple[str, str]]) -> list[SourceClip]:
    """Labels from the files' names; other videos are no part of the set."""
    return [
        SourceClip(u, n, m[1], _CREMAD_EMOTIONS[m[3]], _CREMAD_SENTENCES.get(m[2], m[2]))
        for n, u in _videos(files)
        if (m := _CREMAD_NAME.match(_stem(n)))
    ]


# ---- RAVDESS (Livingstone and Russo 2018): 01-01-06-01-02-01-12.mp4 = modality, channel, emotion, intensity, statement, repetition, actor

_RAVDESS_NAME = re.compile(r"^(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d{2})$")
_RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
_RAVDESS_SENTENCES = ("kids are talking by the door", "dogs are sitting by the door")


def _read_ravdess(root: str, files: list[tuple[str, str]]) -> list[SourceClip]:
    """Spoken takes with picture and sound (01-01-...). The same takes without sound (02-), and the sung ones, are no clips of speech."""
    clips = []
    for name, uri in _videos(files):
        match = _RAVDESS_NAME.match(_stem(name))
        if match and match[1] == "01" and match[2] == "01":
            clips.append(
                SourceClip(
                    uri, name, match[7], _RAVDESS_EMOTIONS[int(match[3]) - 1], _RAVDESS_SENTENCES[int(match[5]) - 1]
                )
            )
    return clips


def _mostly(videos: list[tuple[str, str]], fits: Callable[[str], bool]) -> bool:
    return bool(videos) and sum(fits(n) for n, _ in videos) > len(videos) / 2


SOURCES: dict[str, Source] = {  # auto tries them in this order
    "puppets": Source(_is_puppets, _read_puppets),
    "cremad": Source(lambda files: _mostly(_videos(files), lambda n: bool(_CREMAD_NAME.match(_stem(n)))), _read_cremad),
    "ravdess": Source(
        lambda files: _mostly(_videos(files), lambda n: bool(_RAVDESS_NAME.match(_stem(n)))), _read_ravdess
    ),
    "grid": Source(_is_grid, _read_grid),
    "folder": Source(lambda files: True, _read_folder),
}
