"""What kills runs quietly, told aloud: each alarm reads the averaged scalars of a window of steps and says what to do.

``ALARMS`` is the table of all. One that holds for ``PATIENCE`` windows in a row is told, once, until it has been off again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

PATIENCE = 3
"""Windows in a row that an alarm must hold: one bad window is noise."""

DIAGNOSTICS = (
    "sync_weight",
    "identity_similarity",
    "identity_similarity_teacher",
    "emotion_majority",
    "emotion_majority_teacher",
)
"""Scalars that are logged for alarms only, and shown to nobody on progress lines."""

Record = Mapping[str, float]


@dataclass(frozen=True)
class Alarm:
    """Its name, the scalars it reads (it is silent where one is absent), when it holds, and the sentence for a person."""

    name: str
    reads: tuple[str, ...]
    holds: Callable[[Record], bool]
    advice: str

    def rings(self, record: Record) -> bool:
        return all(name in record for name in self.reads) and self.holds(record)


ALARMS = (
    Alarm(
        "data_starved",
        ("data_wait",),
        lambda r: r["data_wait"] > 0.2,
        "training waits for data for more than a fifth of its time: give Ray Data more CPUs, or move the corpus nearer",
    ),
    Alarm(
        "frame_discriminator_saturated",
        ("d_frame",),
        lambda r: r["d_frame"] < 0.05,
        "the frame discriminator tells every frame, so the generator learns nothing from it: lower gan.discriminators.frame.lr, or raise its interval",
    ),
    Alarm(
        "sequence_discriminator_saturated",
        ("d_sequence",),
        lambda r: r["d_sequence"] < 0.05,
        "the sequence discriminator tells every sequence: lower gan.discriminators.sequence.lr, or raise its interval",
    ),
    Alarm(
        "emotion_discriminator_saturated",
        ("d_emotion", "g_emotion"),
        lambda r: r["d_emotion"] < 0.05 and r["g_emotion"] > 3.0,
        "the emotion discriminator tells every generated face: lower gan.discriminators.emotion.lr, or raise its interval",
    ),
    Alarm(
        "sync_at_chance",
        ("g_sync", "sync_weight"),
        # 1 - cos of unrelated windows is about 1
        lambda r: r["sync_weight"] == 1.0 and r["g_sync"] > 0.9,
        "the generated mouths do not follow the speech: raise gan.discriminators.sync.weight or gan.mouth, or see whether picture and sound are in step",
    ),
    Alarm(
        "identity_collapse",
        ("identity_similarity", "identity_similarity_teacher"),
        lambda r: r["identity_similarity"] > 0.95 and r["identity_similarity"] > r["identity_similarity_teacher"] + 0.1,
        "the student hears the same identity in every voice: raise distill.contrast, or lower distill.emotion_in_identity",
    ),
    Alarm(
        "emotion_collapse",
        ("emotion_majority", "emotion_majority_teacher"),
        lambda r: r["emotion_majority"] > 0.98 and r["emotion_majority_teacher"] < 0.9,
        "the student hears one emotion in every clip: raise distill.emotion, or lower distill.temperature or distill.identity_in_emotion",
    ),
)


class Watch:
    """Counts for how long each alarm has held."""

    def __init__(self) -> None:
        self.held = dict.fromkeys((a.name for a in ALARMS), 0)

    def hear(self, record: Record) -> list[Alarm]:
        """The alarms that have held for exactly ``PATIENCE`` windows with this one."""
        for alarm in ALARMS:
            self.held[alarm.name] = self.held[alarm.name] + 1 if alarm.rings(record) else 0
        return [alarm for alarm in ALARMS if self.held[alarm.name] == PATIENCE]

    def ringing(self) -> list[str]:
        """Names of all that hold now."""
        return [name for name, windows in self.held.items() if windows >= PATIENCE]
