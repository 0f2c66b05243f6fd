"""Puppet voices: espeak-ng with a voice of its own for each speaker and a prosody for each emotion.

espeak-ng is a formant synthesiser. A speaker is a voice definition (accent, pitch, formant frequencies and strengths,
breath, roughness) written for the occasion and loaded by ``espeak_SetVoiceByFile``, followed by two fixed resonances.
An emotion changes rate, pitch, pitch range, level and spectral tilt, never the formants, which stay the speaker's.
"""

from __future__ import annotations

import _ctypes
import ctypes
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import espeakng_loader
import numpy as np

RATE = 22_050
"""Samples a second that espeak-ng makes, and that the puppets' files carry."""

ACCENTS = ("en-US", "en-GB-scotland", "en", "en-029", "en-GB-x-gbclan", "en-US-nyc", "en-GB-x-rp", "en-GB-x-gbcwmd")
"""espeak-ng language files: American, Scottish, British, Caribbean, Lancashire, New York, received, West Midlands."""


@dataclass(frozen=True)
class Voice:
    """How one speaker sounds, whatever the emotion."""

    accent: str
    pitch: float
    """Low end of the speaker's pitch when neutral, Hz."""
    formants: tuple[float, ...]
    """Frequencies of formants 1 to 6 as percentages of espeak's own."""
    brightness: float
    """Strength of formants 3 to 6, percent."""
    breath: int
    roughness: int
    tempo: float
    """Factor on the speaking rate."""
    resonances: tuple[float, float]
    """Centres of the two fixed resonances of throat and nose, Hz."""

    @classmethod
    def from_traits(cls, traits: Mapping[str, float]) -> Voice:
        """A voice from an identity's traits (numbers in [0, 1), see ``corpus.draw_traits``). A big build is a long throat: low pitch, low formants."""
        build = traits["build"]
        throat = 124.0 - 42.0 * build
        spread = np.array([traits["vowel"] - 0.5, traits["front"] - 0.5, traits["twang"] - 0.5])
        shape = np.array([14.0 * spread[0], 18.0 * spread[1], 14.0 * spread[2], 7.0 * spread[2], 0.0, 0.0])
        return cls(
            accent=ACCENTS[int(traits["accent"] * len(ACCENTS))],
            pitch=228.0 * 2.0 ** (-1.35 * build) * 2.0 ** ((traits["pitch"] - 0.5) * 0.25),
            formants=tuple((throat + shape).round(1)),
            brightness=50.0 + 95.0 * traits["bright"],
            breath=int(traits["breath"] * 5),
            roughness=int(traits["rough"] * 5),
            tempo=0.92 + 0.16 * traits["tempo"],
            resonances=(500.0 * 2.0 ** (1.6 * traits["throat"]), 2300.0 * 2.0 ** (1.2 * traits["nose_tone"])),
        )

    def definition(self, prosody: Prosody) -> str:
        """The voice as an espeak-ng voice file."""
        low = self.pitch * 2.0 ** (prosody.pitch / 12.0)
        lines = [
            _language(self.accent),
            f"pitch {low:.0f} {low * 2.0 ** (prosody.span / 12.0):.0f}",
            f"flutter {prosody.flutter}",
            f"roughness {self.roughness}",
            *(
                f"formant {i} {f:.0f} {self.brightness if i > 2 else 100.0:.0f} 100"
                for i, f in enumerate(self.formants, 1)
            ),
        ]
        breath = self.breath + prosody.breath
        if breath:
            lines.append("breath " + " ".join([str(breath)] * 8))
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Prosody:
    """How an emotion bends any voice."""

    rate: float = 1.0
    pitch: float = 0.0
    """Semitones."""
    span: float = 5.5
    """Pitch range, semitones."""
    level: float = 0.0
    """dB."""
    tilt: float = 0.0
    """dB of the band above about 1.5 kHz against the band below."""
    drive: float = 0.0
    """Hardness of a pressed voice: soft clipping, 0 for none."""
    tremor: float = 0.0
    """Depth of a 6.5 Hz tremor of the level, 0..1."""
    breath: int = 0
    flutter: int = 2
    mark: str = "."
    """Punctuation, which sets espeak's intonation tune."""


PROSODY: dict[str, Prosody] = {
    "neutral": Prosody(),
    "happy": Prosody(rate=1.12, pitch=4.0, span=13.0, level=3.0, tilt=4.0, mark="!"),
    "sad": Prosody(rate=0.80, pitch=-1.5, span=1.5, level=-6.0, tilt=-8.0, tremor=0.15, breath=2, flutter=5),
    "angry": Prosody(rate=1.16, pitch=0.5, span=8.0, level=7.0, tilt=7.0, drive=2.0, mark="!"),
    "surprised": Prosody(rate=1.0, pitch=8.0, span=19.0, level=2.0, breath=2, mark="?"),
    "fearful": Prosody(rate=1.26, pitch=6.0, span=3.0, level=-3.0, tilt=-3.0, tremor=0.7, breath=5, flutter=12),
}
"""Directions follow the survey of Scherer, "Vocal communication of emotion" (Speech Communication 40, 2003), table 1; sizes are exaggerated as actors do."""


@dataclass(frozen=True)
class Phoneme:
    """One phoneme (espeak mnemonic; "_" is a pause), start and end in seconds."""

    phoneme: str
    start: float
    end: float


@dataclass(frozen=True)
class Speech:
    """float32 samples ``[N]`` at ``RATE`` in [-1, 1], and the phonemes that they are made of."""

    samples: np.ndarray
    phonemes: tuple[Phoneme, ...]


def speak(voice: Voice, emotion: str, text: str, silence: float = 0.15) -> Speech:
    """``text`` in ``voice`` with ``emotion``, ``silence`` seconds before and after, the same bytes every time.

    Raises:
        ValueError: unknown emotion, or espeak-ng is missing its data.
    """
    if emotion not in PROSODY:
        raise ValueError(f"puppets know the emotions {', '.join(PROSODY)}, not {emotion!r}")
    prosody = PROSODY[emotion]
    with _Engine() as engine:
        raw, events = engine.synthesize(
            voice.definition(prosody), text + prosody.mark, round(178 * voice.tempo * prosody.rate)
        )
    end = next((start for start, name in reversed(events) if not name.startswith("_")), 0)
    after = [start for start, name in events if start > end]
    end = after[0] if after else len(raw)
    pad = round(silence * RATE)
    shaped = _shape(np.pad(raw[:end], pad), voice, prosody)
    spoken = [(start, name) for start, name in events if start < end]
    ends = [start for start, _ in spoken[1:]] + [end]
    phonemes = tuple(
        Phoneme(name, (start + pad) / RATE, (stop + pad) / RATE)
        for (start, name), stop in zip(spoken, ends, strict=True)
        if stop > start
    )
    return Speech(shaped, phonemes)


def _shape(samples: np.ndarray, voice: Voice, prosody: Prosody) -> np.ndarray:
    """Resonances, tilt, drive and tremor; then the level of the emotion, limited softly to stay within [-1, 1]."""
    x = _filter(samples, [*(_peak(f, 9.0, 3.0) for f in voice.resonances), _shelf(1500.0, prosody.tilt)])
    x = x / (_rms(x) + 1e-9)
    if prosody.drive:
        x = np.tanh(x * prosody.drive) / prosody.drive
    if prosody.tremor:
        x = x * (1.0 - prosody.tremor * (0.5 + 0.5 * np.sin(2.0 * np.pi * 6.5 * np.arange(len(x)) / RATE)))
    x = x / (_rms(x) + 1e-9) * 0.08 * 10.0 ** (prosody.level / 20.0)
    return np.tanh(x).astype(np.float32)


def _filter(samples: np.ndarray, sections: list[np.ndarray]) -> np.ndarray:
    """Second-order sections ``(b0, b1, b2, a0, a1, a2)`` in a row, by their frequency response."""
    n = 1 << (len(samples) + 4096).bit_length()  # room for the ringing, so that it does not wrap around
    z = np.exp(-2j * np.pi * np.arange(n // 2 + 1) / n)
    powers = np.stack([np.ones_like(z), z, z * z])
    response = np.prod([(s[:3] @ powers) / (s[3:] @ powers) for s in sections], axis=0)
    return np.fft.irfft(np.fft.rfft(samples, n) * response, n)[: len(samples)]


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def _peak(frequency: float, gain: float, q: float) -> np.ndarray:
    """A peaking filter as one second-order section (R. Bristow-Johnson, Audio EQ Cookbook)."""
    a, w = 10.0 ** (gain / 40.0), 2.0 * math.pi * frequency / RATE
    alpha, c = math.sin(w) / (2.0 * q), math.cos(w)
    return np.array([1 + alpha * a, -2 * c, 1 - alpha * a, 1 + alpha / a, -2 * c, 1 - alpha / a]) / (1 + alpha / a)


def _shelf(frequency: float, gain: float) -> np.ndarray:
    """A high shelf as one second-order section (the same source), slope 0.7."""
    a, w = 10.0 ** (gain / 40.0), 2.0 * math.pi * frequency / RATE
    c = math.cos(w)
    b = 2.0 * math.sqrt(a) * math.sin(w) / 2.0 * math.sqrt((a + 1 / a) * (1 / 0.7 - 1) + 2)
    numerator = np.array(
        [a * ((a + 1) + (a - 1) * c + b), -2 * a * ((a - 1) + (a + 1) * c), a * ((a + 1) + (a - 1) * c - b)]
    )
    denominator = np.array([(a + 1) - (a - 1) * c + b, 2 * ((a - 1) - (a + 1) * c), (a + 1) - (a - 1) * c - b])
    return np.concatenate([numerator, denominator]) / denominator[0]


def _language(accent: str) -> str:
    return (Path(espeakng_loader.get_data_path()) / "lang" / "gmw" / accent).read_text(encoding="utf-8")


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: nothing is played, the callback gets the samples
_PHONEME_EVENTS_DONT_EXIT = 1 | 1 << 15
_END, _PHONEME = 0, 7  # espeakEVENT_LIST_TERMINATED, espeakEVENT_PHONEME
_SET_RATE = 1
_UTF8 = 1


class _Engine:
    """A fresh espeak-ng for one utterance.

    The library keeps the state of its oscillators and of its random numbers between utterances in global variables, so
    what it said before changes what it says now. Unloading it is the one way to a clean start, and costs 1 ms.
    """

    @cached_property
    def _library(self) -> ctypes.CDLL:
        return ctypes.CDLL(espeakng_loader.get_library_path())

    def __enter__(self) -> _Engine:
        self._samples: list[np.ndarray] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # kept alive: C holds only its address
        rate = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), _PHONEME_EVENTS_DONT_EXIT
        )
        if rate != RATE:
            raise ValueError(
                f"espeak-ng could not start from {espeakng_loader.get_data_path()} (it answered {rate}): install espeakng-loader again"
            )
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)

    def synthesize(self, definition: str, text: str, words_per_minute: int) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """float64 samples ``[N]`` in [-1, 1], and (start sample, mnemonic) of each phoneme."""
        with tempfile.NamedTemporaryFile("w", suffix=".voice", encoding="utf-8") as file:
            file.write(definition)
            file.flush()
            status = self._library.espeak_SetVoiceByFile(file.name.encode())
        if status:
            raise ValueError(f"espeak-ng refused a voice (status {status})")
        self._library.espeak_SetParameter(_SET_RATE, words_per_minute, 0)
        data = text.encode()
        self._library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._samples or [np.zeros(0)]) / 32768.0, self._events

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        if wave and count:
            self._samples.append(np.ctypeslib.as_array(wave, (count,)).astype(np.float64))
        for event in events:
            if event.type == _END:
                break
            if event.type == _PHONEME:
                self._events.append((event.sample, bytes(event.id.string).decode()))
        return 0
