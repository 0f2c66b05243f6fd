from __future__ import annotations

import pytest

from s2v_ray.media.ravdess import RavdessName, parse_name


def test_a_name_is_parsed() -> None:
    name = parse_name("03-01-06-02-02-01-12")
    assert name == RavdessName(3, True, "fearful", 2, 2, 1, "12")
    assert (name.sentence, name.has_audio) == ("dogs are sitting by the door", True)


def test_songs_and_silent_videos_are_told_apart() -> None:
    song, silent = parse_name("03-02-01-01-01-02-07"), parse_name("02-01-08-01-01-02-24")
    assert song is not None and not song.spoken and song.has_audio
    assert silent is not None and silent.spoken and not silent.has_audio
    assert (song.emotion, silent.emotion) == ("neutral", "surprised")


@pytest.mark.parametrize("stem", ["", "notes", "03-01-09-01-01-01-01", "03-01-01-01-01-01", "03-01-01-01-03-01-01"])
def test_other_names_are_not_of_the_layout(stem: str) -> None:
    assert parse_name(stem) is None
