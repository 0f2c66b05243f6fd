"""Sections of a recipe about data: media, puppets, ingest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from s2v_ray.config.base import Positive, Section, Share, Weight


class MediaConfig(Section):
    """Format of a clip."""

    size: Literal[32, 64, 96, 128, 256] = Field(64, description="Side of the square face crop, pixels.")
    align: Literal["clip", "smooth"] = Field(
        "clip",
        description="Transform that aligns the face. clip: one for the whole clip, from the median landmarks, so that "
        "errors of the landmarks move no frame; a clip whose face leaves its place is aligned as with smooth, and "
        "counted in the manifest. smooth: one for each frame, from landmarks that are smoothed over time.",
    )
    smoothing: float = Field(
        1.0,
        ge=0,
        description="Standard deviation of this smoothing, seconds; 0 for none. Landmarks of ground truth are not "
        "smoothed.",
    )


class PuppetsConfig(Section):
    """The synthetic corpus."""

    speakers: int = Field(24, ge=2, description="Number of puppets.")
    emotions: tuple[Literal["neutral", "happy", "sad", "angry", "surprised", "fearful", "calm", "disgusted"], ...] = (
        Field(
            ("neutral", "happy", "sad", "angry", "surprised"),
            description="Emotions with which each sentence is spoken; of recordings, those that are used.",
        )
    )
    sentences: int = Field(5, gt=0, description="Number of sentences that each speaker says with each emotion.")
    voices: str = Field(
        "",
        description="URI of a folder of labelled recordings of people, named as RAVDESS names them, whose voices the "
        "puppets have; then their actors and takes replace speakers and sentences. Empty: voices of espeak-ng.",
    )
    size: int = Field(160, ge=64, le=512, description="Side of the video, pixels.")
    max_seconds: float = Field(
        3.2,
        gt=0.5,
        description="A sentence is cut at the end of a word (a recording: of a phoneme) so that no clip is longer.",
    )


class IngestConfig(Section):
    """From video files to a corpus."""

    source: str = Field(
        "auto",
        description="Layout of the source: folder, puppets, grid, cremad, ravdess, or the name of a source that a "
        "plugin registers; auto detects the layout from the files.",
    )
    licence: str = Field("", description="Licence or terms of the source, as the cards state them.")
    split: Literal["within", "take", "disjoint"] = Field(
        "within",
        description="within: every speaker is in train, and val and test have unseen sentences. take: every speaker is "
        "in train, and val and test have unseen files, also of sentences in train. disjoint: val and test have unseen "
        "speakers.",
    )
    val_share: Share = Field(0.1, description="Share of clips (of speakers, if disjoint) for validation.")
    test_share: Share = Field(0.1, description="Share of clips (of speakers, if disjoint) for the test.")
    detector: str = Field(
        "haar",
        description="Face detector: 'haar' (built in, no download) or the URI of YuNet weights (ONNX). Not used where "
        "the source provides landmarks.",
    )
    min_seconds: float = Field(0.8, gt=0, description="Shorter clips are rejected.")
    max_seconds: float = Field(30.0, gt=0, description="Longer clips are cut into pieces of at most this length.")
    offset: Literal["none", "source", "speaker", "clip"] = Field(
        "none",
        description="Correction of the audio-video offset: by the offset measured for the whole source, for the "
        "speaker or for the clip (if the measurement is uncertain, the next coarser one is used).",
    )
    offsets: str = Field("", description="URI of the file that `s2v offsets` wrote for this source.")
    offset_confidence: Weight = Field(
        0.35,
        description="Measured offsets with a lower confidence are not used. 20 puppet clips had at least 0.47, and at "
        "most 0.33 with the speech of another clip.",
    )
    min_face: Positive = Field(32, description="Smallest accepted side of the face crop, pixels of the source picture.")
    min_sharpness: Weight = Field(
        0.0,
        description="Clips with a lower sharpness of the crop, as `s2v inspect` shows it, are rejected; 0: none.",
    )
    max_turn: float = Field(
        90.0,
        gt=0,
        le=90,
        description="Clips whose face is turned further to the side, degrees (median over the clip), are rejected; 90: "
        "none. Needs a detector with landmarks of nose and mouth (YuNet).",
    )
    min_speech: Share = Field(
        0.0,
        description="Clips with speech in a smaller share of their time are rejected, as Silero VAD finds it; 0: none. "
        "Needs the extra `vad`.",
    )
    min_sync: Weight = Field(
        0.0,
        description="Files whose audio-video offset was measured with a lower confidence (ingest.offsets), or was not "
        "measured, are rejected; 0: none.",
    )
    clips_per_shard: Positive = Field(32, description="Number of clips in a shard.")
    jpeg_quality: int = Field(98, ge=50, le=100, description="JPEG quality of the encoded frames.")
    jpeg_chroma: Literal["full", "half"] = Field(
        "full", description="Resolution of the colours of the encoded frames: full (4:4:4) or half (4:2:0)."
    )
    max_reject_share: Share = Field(
        0.5,
        description="Ingest fails if a larger share of the files is rejected, apart from those that min_sharpness, "
        "max_turn, min_speech and min_sync reject.",
    )

    @model_validator(mode="after")
    def _offset_has_its_file(self) -> IngestConfig:
        used = self.offset != "none" or self.min_sync > 0
        if used != (self.offsets != ""):
            raise ValueError(
                "ingest.offset (source, speaker or clip) or ingest.min_sync, and ingest.offsets (the file that "
                "`s2v offsets` wrote) go together: give both or neither"
            )
        return self

    @model_validator(mode="after")
    def _pose_has_landmarks(self) -> IngestConfig:
        if self.max_turn < 90 and self.detector == "haar":
            raise ValueError(
                "ingest.max_turn needs the landmarks of nose and mouth, which the detector haar does not find: set "
                "ingest.detector to the URI of YuNet weights"
            )
        return self
