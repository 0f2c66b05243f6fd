"""Names of the files of RAVDESS (Livingstone and Russo 2018): ``01-01-06-01-02-01-12.mp4``.

The numbers are modality, channel, emotion, intensity, statement, repetition, actor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
"""Emotions by number, from 1."""
SENTENCES = ("kids are talking by the door", "dogs are sitting by the door")
"""Statements by number, from 1."""
_NAME = re.compile(r"^(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d{2})$")


@dataclass(frozen=True)
class RavdessName:
    """What the name of a file says.

    Attributes:
        modality: 1 video with audio, 2 video only, 3 audio only.
        spoken: whether the statement is spoken, not sung.
        emotion: one of ``EMOTIONS``.
        intensity: 1 normal, 2 strong.
        statement: 1 or 2.
        repetition: 1 or 2.
        actor: two digits; odd numbers are male, even ones female.
    """

    modality: int
    spoken: bool
    emotion: str
    intensity: int
    statement: int
    repetition: int
    actor: str

    @property
    def sentence(self) -> str:
        """The words."""
        return SENTENCES[self.statement - 1]

    @property
    def has_audio(self) -> bool:
        """Whether the file has an audio track."""
        return self.modality != 2


def parse_name(stem: str) -> RavdessName | None:
    """Parses the name of a file without its suffix; None if it is not of this layout."""
    match = _NAME.match(stem)
    if match is None:
        return None
    modality, channel, emotion, intensity, statement, repetition, _ = (int(part) for part in match.groups())
    return RavdessName(modality, channel == 1, EMOTIONS[emotion - 1], intensity, statement, repetition, match[7])
