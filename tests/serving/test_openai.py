"""OpenAI's Python client creates, polls, lists, downloads and deletes videos of this API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.helpers.http import comment_of, frames_of
from tests.helpers.servers import listening
from tests.helpers.sounds import speech, wav
from tests.serving.conftest import TOKEN


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_openai_client(make_client: Callable[..., Any], tmp_path: Path) -> None:
    with listening(make_client(videos=str(tmp_path)).app) as address:
        client: Any = openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0)
        sound = ("speech.wav", wav(speech(1.0)))
        video = client.videos.create_and_poll(
            prompt="a greeting",
            input_reference=sound,
            model="default",
            seconds="4",
            size="64x64",
            poll_interval_ms=50,
            extra_body={"emotion": "happy", "seed": 3},
        )
        assert (video.object, video.status, video.progress, video.error) == ("video", "completed", 100, None)
        assert (video.model, video.prompt, video.seconds, video.size) == ("default", "a greeting", "1", "64x64")
        content = client.videos.download_content(video.id).read()
        assert frames_of(content).shape == (25, 64, 64, 3)
        assert "synthetic" in comment_of(content)
        other = client.videos.create(prompt="", input_reference=sound, seconds="8")
        assert [found.id for found in client.videos.list(limit=1)] == [other.id, video.id], "two pages"
        assert client.videos.list(order="asc").data[0] == client.videos.retrieve(video.id) == video
        for made in (video, other):
            assert client.videos.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError, match="there is no such video"):
            client.videos.retrieve(video.id)
        with pytest.raises(openai.UnprocessableEntityError, match="size: must be SIDExSIDE"):
            client.videos.create(prompt="", input_reference=sound, size="720x1280")
        with pytest.raises(openai.BadRequestError, match="speech: send a recording"):
            client.videos.create(prompt="a text alone is not enough")
