"""Commands that generate: generate, live."""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2v_ray import storage
from s2v_ray.cli.base import Outcome, bundle_of, command

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for function in (generate, live):
        app.command(rich_help_panel="Inference")(function)


@command
def generate(
    speech: Annotated[str, typer.Argument(metavar="SPEECH", help="Speech file.")],
    bundle: Annotated[str, typer.Option(metavar="URI", help="Run of `s2v train`, or its bundle.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="PATH", help="MP4 to write.")],
    emotion: Annotated[str | None, typer.Option(help="Show this emotion instead of that of the speech.")] = None,
    face: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Picture of the face to show instead of that of the speech.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Identity teacher that the bundle was distilled from: CORPUS/teachers/identity."
        ),
    ] = None,
    take: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Picture whose take (pose, hair, light, camera) to show; default: one drawn with the seed.",
        ),
    ] = None,
    detector: Annotated[
        str, typer.Option(metavar="URI", help="Face detector: haar, YuNet weights, or none for an aligned crop.")
    ] = "haar",
    seed: Annotated[int, typer.Option(help="Seed of take and motion: another seed gives another take.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> Outcome:
    """Generate a talking-face MP4, marked as synthetic, from speech (WAV, FLAC, MP3, or the audio of a video).

    The recipe is the bundle's own. With --face and --teacher, the face in the picture replaces the voice (image
    identity); a reference bundle takes --face alone. With --take, the face looks as in that picture: its pose, hair,
    light and camera; otherwise such a take is drawn, and --seed gives another one.

    JSON result: output, frames, seconds (of video), elapsed (seconds of work), realtime_factor (above 1: faster than
    real time).
    """
    from s2v_ray.inference.predictor import Predictor
    from s2v_ray.inference.writer import generate_file

    predictor = Predictor(bundle_of(bundle), device)
    picture = _read_face(face, detector, predictor.size) if face else None
    codes: dict[str, Any] = {}
    if teacher:
        from s2v_ray.models.teachers import load

        if picture is None or predictor.reference:
            raise ValueError("--teacher goes with --face and a bundle that is not a reference baseline")
        codes["identity"] = load(storage.absolute(teacher))(picture[None])[0]
    elif picture is not None and not predictor.reference:
        raise ValueError(
            "--face needs --teacher CORPUS/teachers/identity, whose code of the face is the image identity"
        )
    else:
        codes["still"] = picture
    if take:
        codes["take"] = _read_face(take, detector, predictor.size)
    result = generate_file(predictor, speech, output, **codes, emotion=emotion, seed=seed)
    logger.info("wrote %s: %.1f s of video in %.1f s", output, result.seconds, result.elapsed)
    return Outcome({"video": output}, asdict(result))


@command
def live(
    speech: Annotated[
        str | None, typer.Argument(metavar="[SPEECH]", help="Speech file, read at its own speed; default: microphone.")
    ] = None,
    *,
    bundle: Annotated[str, typer.Option(metavar="URI", help="Run of `s2v train`, or its bundle.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="PATH", help="MP4 to write.")],
    emotion: Annotated[str | None, typer.Option(help="Show this emotion instead of that of the speech.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of take and motion: another seed gives another take.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> Outcome:
    """Generate frames while a person speaks, and write them as an MP4, marked as synthetic. Ctrl-C ends the speech.

    Each frame is generated as soon as its speech and the look-ahead are there. A microphone needs the package
    sounddevice (`pip install 's2v_ray[microphone]'`). Over a network: `s2v serve`, and WS /v1/live.

    JSON result: output, frames, seconds (of video), lost_seconds, latency_ms and latency_p95_ms (from the audio of a
    frame to the frame, look-ahead included).
    """
    from s2v_ray.inference.live import LiveRequest
    from s2v_ray.inference.predictor import Predictor
    from s2v_ray.inference.recording import at_own_speed, from_microphone, record_live
    from s2v_ray.inference.writer import check_target, read_speech_at

    check_target(output)
    predictor = Predictor(bundle_of(bundle), device)
    stop = threading.Event()
    if speech:
        with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
            chunks = at_own_speed(read_speech_at(speech, folder), stop)
    else:
        chunks = from_microphone(stop)
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        result = record_live(predictor, LiveRequest(emotion=emotion, seed=seed), chunks, output)
    finally:
        signal.signal(signal.SIGINT, before)
    logger.info("wrote %s: %.1f s of video, %.0f ms behind the speech", output, result.seconds, result.latency_ms)
    return Outcome({"video": output}, asdict(result))


def _read_face(uri: str, detector: str, size: int) -> np.ndarray:
    """Return the aligned crop, uint8 ``[size, size, 3]``, of the one face in the picture."""
    import cv2
    import numpy as np

    from s2v_ray.media.face import crop_face, make_detector

    data = np.frombuffer(storage.read_bytes(storage.absolute(uri)), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise ValueError(f"{uri} is not a picture that can be read")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if detector == "none":
        return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))
    finder = make_detector(detector)
    try:
        return crop_face(image, size, finder)
    except ValueError as e:
        raise ValueError(f"{uri} {e}; an aligned crop is taken as it is with --detector none") from e
