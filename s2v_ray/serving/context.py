"""What the routes of an endpoint share."""

from __future__ import annotations

from s2v_ray.serving.concurrency import ConcurrencyLimit
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.forms import FormReader
from s2v_ray.serving.live import LiveSessions
from s2v_ray.serving.service import Service
from s2v_ray.serving.study import Study
from s2v_ray.serving.videos import Videos


class ApiContext:
    """State that the guard and all routes of one endpoint share.

    Args:
        service: the work of the endpoint.
        token: bearer token, or "" if none is required.

    Attributes:
        settings: settings of the endpoint.
        limits: its limits.
        metrics: its metrics.
        sync: limit of the requests for videos that are read or answered at a time.
        forms: reads forms.
        live: the live sessions.

    Raises:
        ArtifactError: the settings name a study that does not exist.
    """

    def __init__(self, service: Service, token: str = "") -> None:
        self.service, self.token = service, token
        self.settings, self.limits = service.settings, service.settings.limits
        self.metrics = service.metrics
        self.sync = ConcurrencyLimit(
            self.limits.sync,
            "busy",
            "{limit} requests for videos are open already: try again in a moment",
            retry_after=2,
        )
        self.forms = FormReader(service)
        self.live = LiveSessions(service, self.forms, self.metrics, token)
        self._videos = Videos(service, self.settings.videos, self.settings) if self.settings.videos else None
        self._study = Study(self.settings.study) if self.settings.study else None
        self.metrics.sync.set_function(lambda: self.sync.active)
        self.metrics.videos.set_function(lambda: len(self._videos.held) if self._videos else 0)

    @property
    def has_videos(self) -> bool:
        """Whether the endpoint stores videos."""
        return self._videos is not None

    @property
    def has_study(self) -> bool:
        """Whether the endpoint has a study."""
        return self._study is not None

    @property
    def videos(self) -> Videos:
        """The videos of the endpoint.

        Raises:
            ApiError: not_found, if the endpoint stores no videos.
        """
        if self._videos is None:
            raise ApiError("not_found", "this endpoint stores no videos: use POST /v1/videos/sync")
        return self._videos

    @property
    def study(self) -> Study:
        """The study of the endpoint.

        Raises:
            ApiError: not_found, if there is none.
        """
        if self._study is None:
            raise ApiError("not_found", "this endpoint has no study")
        return self._study

    async def start(self) -> None:
        """Starts the service, unless it is started, and the videos.

        Raises:
            ArtifactError: bundle or teacher cannot be loaded.
        """
        if not self.service.ready:
            await self.service.start()
        self.live.limit.limit = self.service.live_sessions
        if self._videos:
            await self._videos.start()

    async def stop(self) -> None:
        """Ends the live sessions, releases the videos and unloads the bundles."""
        self.live.stop()
        if self._videos:
            await self._videos.stop()
        await self.service.close()
