"""Voices of the puppets: a voice of espeak-ng for each speaker, and a prosody for each emotion.

espeak-ng is a formant synthesiser. A speaker is a voice definition (accent, pitch, frequencies and strengths of the
formants, breath, roughness), followed by two fixed resonances. An emotion changes rate, pitch, pitch range, level
and spectral tilt, but not the speaker's formants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from s2v_ray.puppets.espeak import RATE, Engine, read_language

ACCENTS = ("en-US", "en-GB-scotland", "en", "en-029", "en-GB-x-gbclan", "en-US-nyc", "en-GB-x-rp", "en-GB-x-gbcwmd")
"""Languages of espeak-ng: American, Scottish, British, Caribbean, Lancashire, New York, RP, West Midlands."""
WORDS_PER_MINUTE = 178
"""Speaking rate of a neutral puppet with tempo 1."""


@dataclass(frozen=True)
class Voice:
    """A speaker's voice without an emotion.

    Attributes:
        accent: one of ``ACCENTS``.
        pitch: lower end of the pitch range of neutral speech, Hz.
        formants: frequencies of formants 1 to 6, percent of espeak-ng's defaults.
        brightness: strength of formants 3 to 6, percent.
        breath, roughness: parameters of espeak-ng.
        tempo: factor on the speaking rate.
        resonances: centres of the two fixed resonances of throat and nose, Hz.
    """

    accent: str
    pitch: float
    formants: tuple[float, ...]
    brightness: float
    breath: int
    roughness: int
    tempo: float
    resonances: tuple[float, float]

    @classmethod
    def from_traits(cls, traits: Mapping[str, float]) -> Voice:
        """Derives a voice from the traits of an identity, numbers in [0, 1) (see ``traits.draw_traits``).

        A large build gives a long throat: low pitch and low formants.
        """
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
        """Returns the content of a voice file of espeak-ng."""
        low = self.pitch * 2.0 ** (prosody.pitch / 12.0)
        lines = [
            read_language(self.accent),
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
    """Changes that an emotion makes to any voice.

    Attributes:
        rate: factor on the speaking rate.
        pitch: shift, semitones.
        span: pitch range, semitones.
        level: dB.
        tilt: gain above about 1.5 kHz relative to the band below, dB.
        drive: strength of soft clipping, as in a pressed voice; 0 for none.
        tremor: depth of a 6.5 Hz modulation of the level, 0..1.
        breath, flutter: parameters of espeak-ng.
        mark: punctuation, which selects the intonation of espeak-ng.
    """

    rate: float = 1.0
    pitch: float = 0.0
    span: float = 5.5
    level: float = 0.0
    tilt: float = 0.0
    drive: float = 0.0
    tremor: float = 0.0
    breath: int = 0
    flutter: int = 2
    mark: str = "."


PROSODY: dict[str, Prosody] = {
    "neutral": Prosody(),
    "happy": Prosody(rate=1.12, pitch=4.0, span=13.0, level=3.0, tilt=4.0, mark="!"),
    "sad": Prosody(rate=0.80, pitch=-1.5, span=1.5, level=-6.0, tilt=-8.0, tremor=0.15, breath=2, flutter=5),
    "angry": Prosody(rate=1.16, pitch=0.5, span=8.0, level=7.0, tilt=7.0, drive=2.0, mark="!"),
    "surprised": Prosody(rate=1.0, pitch=8.0, span=19.0, level=2.0, breath=2, mark="?"),
    "fearful": Prosody(rate=1.26, pitch=6.0, span=3.0, level=-3.0, tilt=-3.0, tremor=0.7, breath=5, flutter=12),
    "calm": Prosody(rate=0.90, pitch=-0.5, span=3.5, level=-3.0, tilt=-4.0, breath=1),
    "disgusted": Prosody(rate=0.88, pitch=-3.0, span=9.0, level=1.0, tilt=2.0, drive=1.2),
}
"""Prosodies by emotion.

The signs follow Scherer, "Vocal communication of emotion" (Speech Communication 40, 2003), table 1; the sizes are
exaggerated, as by actors.
"""


@dataclass(frozen=True)
class Phoneme:
    """A phoneme in time.

    Attributes:
        phoneme: mnemonic of espeak-ng; "_" is a pause.
        start, end: seconds.
    """

    phoneme: str
    start: float
    end: float


@dataclass(frozen=True)
class Speech:
    """An utterance.

    Attributes:
        samples: float32 ``[N]`` in [-1, 1].
        phonemes: in order.
        rate: samples per second.
    """

    samples: np.ndarray
    phonemes: tuple[Phoneme, ...]
    rate: int = RATE


def speak(voice: Voice, emotion: str, text: str, silence: float = 0.15) -> Speech:
    """Synthesizes ``text``; the same arguments always give the same samples.

    Args:
        voice: of the speaker.
        emotion: a key of ``PROSODY``.
        text: English.
        silence: seconds of silence before and after the speech.

    Raises:
        ValueError: unknown emotion, or the data of espeak-ng is missing.
    """
    if emotion not in PROSODY:
        raise ValueError(f"puppets have the emotions {', '.join(PROSODY)}, not {emotion!r}")
    prosody = PROSODY[emotion]
    rate = round(WORDS_PER_MINUTE * voice.tempo * prosody.rate)
    with Engine() as engine:
        raw, events = engine.synthesize(voice.definition(prosody), text + prosody.mark, rate)
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
    """Applies resonances, tilt, drive and tremor, then the level of the emotion with a soft limit at [-1, 1]."""
    x = _filter(samples, [*(_peak(f, 9.0, 3.0) for f in voice.resonances), _shelf(1500.0, prosody.tilt)])
    x = x / (_rms(x) + 1e-9)
    if prosody.drive:
        x = np.tanh(x * prosody.drive) / prosody.drive
    if prosody.tremor:
        x = x * (1.0 - prosody.tremor * (0.5 + 0.5 * np.sin(2.0 * np.pi * 6.5 * np.arange(len(x)) / RATE)))
    x = x / (_rms(x) + 1e-9) * 0.08 * 10.0 ** (prosody.level / 20.0)
    shaped: np.ndarray = np.tanh(x).astype(np.float32)
    return shaped


def _filter(samples: np.ndarray, sections: list[np.ndarray]) -> np.ndarray:
    """Applies second-order sections ``(b0, b1, b2, a0, a1, a2)`` in series, by their frequency response."""
    n = 1 << (len(samples) + 4096).bit_length()  # zero padding, so that the impulse response does not wrap around
    z = np.exp(-2j * np.pi * np.arange(n // 2 + 1) / n)
    powers = np.stack([np.ones_like(z), z, z * z])
    response = np.prod([(s[:3] @ powers) / (s[3:] @ powers) for s in sections], axis=0)
    filtered: np.ndarray = np.fft.irfft(np.fft.rfft(samples, n) * response, n)[: len(samples)]
    return filtered


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def _peak(frequency: float, gain: float, q: float) -> np.ndarray:
    """Returns a peaking filter as a second-order section (R. Bristow-Johnson, Audio EQ Cookbook)."""
    a, w = 10.0 ** (gain / 40.0), 2.0 * math.pi * frequency / RATE
    alpha, c = math.sin(w) / (2.0 * q), math.cos(w)
    section: np.ndarray = np.array([1 + alpha * a, -2 * c, 1 - alpha * a, 1 + alpha / a, -2 * c, 1 - alpha / a])
    section /= 1 + alpha / a
    return section


def _shelf(frequency: float, gain: float) -> np.ndarray:
    """Returns a high shelf of slope 0.7 as a second-order section (Audio EQ Cookbook)."""
    a, w = 10.0 ** (gain / 40.0), 2.0 * math.pi * frequency / RATE
    c = math.cos(w)
    b = 2.0 * math.sqrt(a) * math.sin(w) / 2.0 * math.sqrt((a + 1 / a) * (1 / 0.7 - 1) + 2)
    numerator = np.array(
        [a * ((a + 1) + (a - 1) * c + b), -2 * a * ((a - 1) + (a + 1) * c), a * ((a + 1) + (a - 1) * c - b)]
    )
    denominator = np.array([(a + 1) - (a - 1) * c + b, 2 * ((a - 1) - (a + 1) * c), (a + 1) - (a - 1) * c - b])
    section: np.ndarray = np.concatenate([numerator, denominator]) / denominator[0]
    return section
