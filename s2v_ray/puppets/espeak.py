"""espeak-ng through ctypes: a voice definition and a text -> samples and phonemes."""

from __future__ import annotations

import _ctypes
import ctypes
import tempfile
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import espeakng_loader
import numpy as np

RATE = 22_050
"""Sample rate of espeak-ng and of the puppets' videos, Hz."""


def read_language(name: str) -> str:
    """Reads the file of a language of the West Germanic family, such as "en-US"."""
    return (Path(espeakng_loader.get_data_path()) / "lang" / "gmw" / name).read_text(encoding="utf-8")


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

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the callback gets the samples, nothing is played
_PHONEME_EVENTS_DONT_EXIT = 1 | 1 << 15
_END, _PHONEME = 0, 7  # espeakEVENT_LIST_TERMINATED, espeakEVENT_PHONEME
_SET_RATE = 1
_UTF8 = 1


class Engine:
    """An instance of espeak-ng for one utterance, used as a context manager.

    The library keeps the state of its oscillators and random numbers in global variables, so an utterance depends
    on the previous ones. The library is unloaded after each utterance to reset them, which takes 1 ms.
    """

    @cached_property
    def _library(self) -> ctypes.CDLL:
        return ctypes.CDLL(espeakng_loader.get_library_path())

    def __enter__(self) -> Engine:
        self._samples: list[np.ndarray] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # referenced here because C stores only its address
        rate = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), _PHONEME_EVENTS_DONT_EXIT
        )
        if rate != RATE:
            raise ValueError(
                f"espeak-ng could not start from {espeakng_loader.get_data_path()} (status {rate}): "
                "install espeakng-loader again"
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
        """Synthesizes ``text``.

        Args:
            definition: content of an espeak-ng voice file.
            text: in the language of the voice.
            words_per_minute: speaking rate.

        Returns:
            float64 samples ``[N]`` in [-1, 1], and first sample and mnemonic of each phoneme.

        Raises:
            ValueError: the voice definition is not valid.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".voice", encoding="utf-8") as file:
            file.write(definition)
            file.flush()
            status = self._library.espeak_SetVoiceByFile(file.name.encode())
        if status:
            raise ValueError(f"espeak-ng rejects the voice definition (status {status})")
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
