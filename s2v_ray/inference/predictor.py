"""Speech in, talking face out: a bundle at work. Knows no Ray.

Memory does not grow with the length of the speech beyond the speech itself. A first pass hears the whole of it, chunk by
chunk, for the codes of identity and emotion; a second pass hears the content and draws. The content of a frame depends on
at most ``student.context_frames`` frames on either side, so each chunk is heard with that much real context and comes out
as it would in one go: there are no seams.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from s2v_ray import storage
from s2v_ray.clip import to_pixels, to_unit
from s2v_ray.config import parse_recipe
from s2v_ray.media.audio import log_mel, read_speech
from s2v_ray.media.timing import FPS, SAMPLES_PER_FRAME, frames_to_samples, samples_to_frames, seconds_to_frames
from s2v_ray.media.video import SYNTHETIC, write_mp4
from s2v_ray.models.bundle import load_bundle
from s2v_ray.models.generator import NoiseSequence

HEARD_FRAMES = seconds_to_frames(10.0)
"""Frames of speech heard at a time."""
DRAWN_FRAMES = 16
"""Frames drawn at a time."""


@dataclass(frozen=True)
class Codes:
    """What the student makes of a speech: ``identity [D]``, unit length; ``emotion [E]``; ``emotion_logits [K]``."""

    identity: Tensor
    emotion: Tensor
    emotion_logits: Tensor


class Drawing:
    """A speech on its way to frames. Made by ``Predictor.begin``; ``Predictor`` alone moves it on.

    Attributes:
        sound: float32 ``[T * 640]``.
        frames: T, in all. left: not drawn yet.
        person: ``[D]``; None until it is heard. mood: ``[E]``; the same.
        still: ``[1, 3, S, S]`` for reference bundles.
        spans: what is yet to be heard for the codes.
    """

    def __init__(
        self,
        sound: Tensor,
        person: Tensor | None,
        mood: Tensor | None,
        still: Tensor | None,
        noise: NoiseSequence,
        spans: list[tuple[int, int]],
        contents: Iterator[Tensor],
    ) -> None:
        self.sound, self.person, self.mood, self.still, self.spans = sound, person, mood, still, spans
        self.frames = self.left = _frames(sound)
        self.sums: list[Tensor | float] = [0.0, 0.0]
        self.heard = 0
        self._noise, self._contents = noise, contents
        self._content = torch.zeros(1, 0, 0)

    @property
    def ready(self) -> bool:
        """Whether the codes are known."""
        return self.person is not None and self.mood is not None

    def take(self, frames: int) -> tuple[Tensor, Tensor]:
        """Content ``[1, t, C]`` and noise ``[1, t, Z]`` of the next frames, at most so many."""
        if not self._content.shape[1]:
            self._content = next(self._contents)
        part, self._content = self._content[:, :frames], self._content[:, frames:]
        self.left -= part.shape[1]
        return part, self._noise.draw(part.shape[1])


class Predictor:
    """A loaded speech2video bundle.

    Attributes:
        card: the card of the bundle.
        emotions: names that ``generate`` takes for ``emotion``.
        reference: True if the bundle is a reference baseline, which needs a still.
        size: side of the frames made, pixels.
    """

    def __init__(
        self,
        bundle_uri: str,
        device: torch.device | str = "cpu",
        *,
        heard_frames: int = HEARD_FRAMES,
        drawn_frames: int = DRAWN_FRAMES,
    ) -> None:
        """Loads ``bundle_uri``. The chunk sizes change speed and memory, not what is drawn.

        Raises:
            ArtifactError: no sound speech2video bundle is there.
        """
        model, self.card = load_bundle(bundle_uri, "speech2video")
        self.model = model.to(device)
        self.device = torch.device(device)
        self.emotions: tuple[str, ...] = tuple(self.card["emotions"])
        self.reference: bool = self.card["reference"]
        self.size: int = parse_recipe(self.card["recipe"]).media.size
        self._heard_frames = heard_frames
        self._drawn_frames = drawn_frames

    def hear(self, speech: np.ndarray) -> Codes:
        """Codes of a speech, float32 ``[N]`` at 16 kHz in [-1, 1].

        Speech of up to one chunk is heard in one go; of a longer one, the mean over chunks of nearly equal length is
        taken, and the identity scaled back to unit length.

        Raises:
            ValueError: the speech is shorter than a frame, or not finite.
        """
        codes = self._codes(_whole_frames(speech))
        return Codes(
            codes.identity.clone(), codes.emotion.clone(), codes.emotion_logits.clone()
        )  # usable in autograd again

    def generate(
        self,
        speech: np.ndarray,
        *,
        identity: Tensor | None = None,
        emotion: str | Tensor | None = None,
        still: np.ndarray | None = None,
        seed: int = 0,
        listen: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Draws the face that says ``speech``, float32 ``[N]`` at 16 kHz in [-1, 1].

        Args:
            identity: ``[D]``: whose face; None for the one heard. A teacher's code of a still gives the seen identity.
            emotion: one of ``emotions``, or a code ``[E]``, to be shown instead of the one heard.
            still: uint8 ``[S, S, 3]``, aligned to ``media.face.TEMPLATE``: reference bundles need it, others take none.
            seed: of the noise sequence. The same input and seed give the same frames, however they are chunked.
            listen: frames from the start in which identity and emotion are heard; None: all. With few of them the first frame comes as
                soon for long speech as for short.

        Returns:
            Chunks, uint8 ``[t, size, size, 3]``; together one frame for each started 40 ms of speech.

        Raises:
            ValueError: an input that cannot be used; raised by the call itself, before anything is drawn.
        """
        return self._alone(
            self.begin(speech, identity=identity, emotion=emotion, still=still, seed=seed, listen=listen)
        )

    def begin(
        self,
        speech: np.ndarray,
        *,
        identity: Tensor | None = None,
        emotion: str | Tensor | None = None,
        still: np.ndarray | None = None,
        seed: int = 0,
        listen: int | None = None,
    ) -> Drawing:
        """Takes a speech on, to be drawn with others; arguments and errors as ``generate``'s. Nothing is heard or drawn yet."""
        sound = _whole_frames(speech)
        image = self._still(still)
        if isinstance(emotion, str) and emotion not in self.emotions:
            raise ValueError(f"unknown emotion {emotion!r}; this bundle knows {', '.join(self.emotions)}")
        mood = self.model.student.emotion_codes[self.emotions.index(emotion)] if isinstance(emotion, str) else emotion
        for name, code, width in (
            ("identity", identity, self.card["identity_dim"]),
            ("emotion", mood, self.model.student.emotion_codes.shape[1]),
        ):
            if code is not None and (code.ndim != 1 or len(code) != width or not code.isfinite().all()):
                raise ValueError(f"{name} must be {width} finite numbers, not {list(code.shape)}")
        if identity is not None and not identity.any():
            raise ValueError(f"identity must be {self.card['identity_dim']} finite numbers that are not all 0")
        noise = NoiseSequence(1, self.model.generator.noise_dim, torch.Generator().manual_seed(seed))
        person = None if identity is None else F.normalize(identity.to(self.device, torch.float32), dim=0)
        heard = _frames(sound) if listen is None else min(listen, _frames(sound))
        spans = list(_spans(heard, self._heard_frames)) if person is None or mood is None else []
        return Drawing(
            sound,
            person,
            None if mood is None else mood.to(self.device, torch.float32),
            image,
            noise,
            spans,
            self._contents(sound),
        )

    @torch.inference_mode()
    def hear_on(self, drawing: Drawing) -> bool:
        """Hears one more chunk for a drawing's codes; returns whether they are complete. Then ``draw`` takes it."""
        if drawing.spans:
            start, end = drawing.spans.pop(0)
            heard = self.model.student(self._cut(drawing.sound, start, end), content=False)
            drawing.sums = [
                s + (end - start) * x[0] for s, x in zip(drawing.sums, (heard.identity, heard.emotion), strict=True)
            ]
            drawing.heard += end - start
        if not drawing.spans:
            identity, emotion = drawing.sums
            if drawing.person is None:
                drawing.person = F.normalize(torch.as_tensor(identity) / drawing.heard, dim=0)
            if drawing.mood is None:
                drawing.mood = torch.as_tensor(emotion) / drawing.heard
        return drawing.ready

    @torch.inference_mode()
    def draw(self, drawings: Sequence[Drawing], frames: int = DRAWN_FRAMES) -> list[np.ndarray]:
        """The next frames of several speeches, drawn in one go: each gets the frames that it would get alone.

        Args:
            drawings: ready (see ``hear_on``) and not at their end.
            frames: at most so many of each.

        Returns:
            uint8 ``[t, size, size, 3]`` for each, ``1 <= t <= frames``.
        """
        parts = [d.take(frames) for d in drawings]
        content, noise = (pad_sequence([p[i][0] for p in parts], batch_first=True).to(self.device) for i in (0, 1))
        person, mood = (
            torch.stack([c for c in codes if c is not None])
            for codes in zip(*((d.person, d.mood) for d in drawings), strict=True)
        )
        stills = [d.still for d in drawings if d.still is not None]
        made = (
            to_pixels(self.model.generator(person, mood, content, noise, torch.cat(stills) if stills else None))
            .cpu()
            .numpy()
        )
        return [pixels[: p[0].shape[1]] for pixels, p in zip(made, parts, strict=True)]

    def _alone(self, drawing: Drawing) -> Iterator[np.ndarray]:
        while not self.hear_on(drawing):
            pass
        while drawing.left:
            yield self.draw([drawing], self._drawn_frames)[0]

    @torch.inference_mode()
    def _codes(self, sound: Tensor) -> Codes:
        sums: list[Tensor | float] = [0.0, 0.0, 0.0]
        for start, end in _spans(_frames(sound), self._heard_frames):
            heard = self.model.student(self._cut(sound, start, end), content=False)
            sums = [
                s + (end - start) * x[0]
                for s, x in zip(sums, (heard.identity, heard.emotion, heard.emotion_logits), strict=True)
            ]
        identity, emotion, logits = (torch.as_tensor(s) / _frames(sound) for s in sums)
        return Codes(F.normalize(identity, dim=0), emotion, logits)

    def _contents(self, sound: Tensor) -> Iterator[Tensor]:
        """The content ``[1, t, C]`` of chunk after chunk, each heard with its context; the first are short, for the first frames to come soon."""
        context, end, width = self.model.student.context_frames, 0, min(2 * self._drawn_frames, self._heard_frames)
        while end < _frames(sound):
            start, end, width = end, min(end + width, _frames(sound)), min(2 * width, self._heard_frames)
            first = max(0, start - context)
            content = self.model.student.content_of(
                log_mel(self._cut(sound, first, min(_frames(sound), end + context)))
            )
            yield content[:, start - first : end - first]

    def _cut(self, sound: Tensor, start: int, end: int) -> Tensor:
        return sound[None, frames_to_samples(start) : frames_to_samples(end)].to(self.device)

    def _still(self, still: np.ndarray | None) -> Tensor | None:
        """A still as the generator takes it, ``[1, 3, size, size]`` in [-1, 1]."""
        if not self.reference:
            if still is not None:
                raise ValueError("this bundle draws from speech alone and takes no still; a reference bundle does")
            return None
        if still is None:
            raise ValueError("this is a reference bundle: it needs a still of the speaker")
        if still.dtype != np.uint8 or still.ndim != 3 or still.shape[0] != still.shape[1] or still.shape[2] != 3:
            raise ValueError(f"a still must be a uint8 [S, S, 3] aligned crop, not {still.dtype} {list(still.shape)}")
        image = to_unit(torch.from_numpy(np.ascontiguousarray(still)))[None]
        if still.shape[0] != self.size:
            image = F.interpolate(image, size=(self.size, self.size), mode="bilinear", antialias=True)
        return image.to(self.device)


def generate_file(
    bundle: str | Predictor,
    speech_path: str,
    out_path: str,
    *,
    identity: Tensor | None = None,
    emotion: str | None = None,
    still: np.ndarray | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    progress: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """File in, file out: the talking face that says ``speech_path``, as an H.264 + AAC MP4 tagged as synthetic.

    Args:
        bundle: a loaded one, or its URI.
        speech_path: path or URI of a sound file, or of a video, in any container PyAV reads.
        out_path: path or URI of the MP4; an earlier file there is replaced when the new one is complete, else kept.
        threads: compute threads; None leaves torch's setting alone.
        progress: called with a line for people, about every ten seconds of video.

    Returns:
        ``output``; ``frames``; ``seconds`` of video; ``elapsed`` seconds of this call, which is everything from reading the
        files to the finished MP4 (and the bundle, where its URI is given); and ``realtime_factor``, seconds of video for a
        second of work: above 1 is faster than real time.

    Raises:
        ValueError: an input that cannot be used, or a target that cannot be written, in one sentence.
    """
    began = time.perf_counter()
    _check_target(out_path)
    with tempfile.TemporaryDirectory(prefix="s2v-") as folder, _threads(threads):
        predictor = Predictor(bundle, device) if isinstance(bundle, str) else bundle
        sound = _whole_frames(_read(speech_path, folder)).numpy()
        chunks = predictor.generate(sound, identity=identity, emotion=emotion, still=still, seed=seed)
        made = Path(folder) / "made.mp4"
        write_mp4(str(made), _one_by_one(chunks, len(sound) // SAMPLES_PER_FRAME, progress), sound, metadata=SYNTHETIC)
        storage.write_bytes(out_path, made.read_bytes())
    frames = len(sound) // SAMPLES_PER_FRAME
    elapsed = time.perf_counter() - began
    return {
        "output": out_path,
        "frames": frames,
        "seconds": frames / FPS,
        "elapsed": elapsed,
        "realtime_factor": frames / FPS / elapsed,
    }


def _read(path: str, folder: str) -> np.ndarray:
    """Speech of a path or URI, whole."""
    try:
        fs, inner = storage.filesystem(path)
        if fs.isdir(inner):
            raise ValueError(f"{path} is a folder, not a sound or video file")
        local = storage.download(path, folder)
    except FileNotFoundError:
        raise ValueError(f"there is no speech at {path}") from None
    try:
        return read_speech(local)
    except ValueError as e:
        raise ValueError(str(e).replace(local, path)) from e


def _check_target(path: str) -> None:
    """Finds out before the work whether the result can be written."""
    fs, inner = storage.filesystem(path)
    if fs.isdir(inner):
        raise ValueError(f"{path} is a folder; name the MP4 file to write")
    folder, slash, _ = path.rpartition("/")
    storage.check_writable(folder or ("/" if slash else "."))


def _one_by_one(
    chunks: Iterable[np.ndarray], total: int, progress: Callable[[str], object] | None
) -> Iterator[np.ndarray]:
    done = 0
    for chunk in chunks:
        yield from chunk
        before, done = done, done + len(chunk)
        if progress is not None and (done == total or before // HEARD_FRAMES < done // HEARD_FRAMES):
            progress(f"{done / FPS:.1f} of {total / FPS:.1f} s drawn")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    earlier = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(earlier)


def _whole_frames(speech: np.ndarray) -> Tensor:
    """``[N]`` -> ``[T * 640]``: checked, clipped to [-1, 1], and filled up with silence to whole frames; a single copy."""
    if speech.ndim != 1:
        raise ValueError(f"speech must be mono, [N], not {list(speech.shape)}")
    if len(speech) < SAMPLES_PER_FRAME:
        raise ValueError(
            f"the speech is {len(speech)} samples long, shorter than one video frame ({SAMPLES_PER_FRAME} samples, 40 ms)"
        )
    sound = np.zeros(frames_to_samples(samples_to_frames(len(speech))), np.float32)
    np.clip(speech, -1.0, 1.0, out=sound[: len(speech)])  # NaN stays NaN
    if not np.isfinite(sound).all() or np.isinf(speech).any():
        raise ValueError("the speech has samples that are not finite numbers")
    return torch.from_numpy(sound)


def _frames(sound: Tensor) -> int:
    return len(sound) // SAMPLES_PER_FRAME


def _spans(frames: int, longest: int) -> Iterator[tuple[int, int]]:
    """Cuts ``frames`` into the fewest spans of at most ``longest``, equal to within one frame."""
    count = -(-frames // longest)
    edges = [i * frames // count for i in range(count + 1)]
    yield from zip(edges[:-1], edges[1:], strict=True)
