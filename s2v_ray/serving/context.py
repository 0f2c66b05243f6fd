"""What the routes of an endpoint share."""

from __future__ import annotations

from s2v_ray.serving.concurrency import ConcurrencyLimit
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.forms import FormReader
from s2v_ray.serving.jobs import Jobs
from s2v_ray.serving.live import LiveSessions
from s2v_ray.serving.metrics import Metrics
from s2v_ray.serving.service import Service
from s2v_ray.serving.study import Study


class ApiContext:
    """State that the guard and all routes of one endpoint share.

    Args:
        service: the work of the endpoint.
        token: bearer token, or "" if none is required.

    Attributes:
        settings: settings of the endpoint.
        limits: its limits.
        metrics: its metrics.
        videos: limit of the videos that are generated at a time.
        forms: reads forms.
        live: the live sessions.

    Raises:
        ArtifactError: the settings name a study that does not exist.
    """

    def __init__(self, service: Service, token: str = "") -> None:
        self.service, self.token = service, token
        self.settings, self.limits = service.settings, service.settings.limits
        self.metrics = Metrics()
        service.on_frames = self.metrics.frames.inc
        self.videos = ConcurrencyLimit(
            self.limits.videos,
            "busy",
            f"{self.limits.videos} videos are being generated already: try again in a moment",
            retry_after=2,
        )
        self.forms = FormReader(service)
        self.live = LiveSessions(service, self.forms, self.metrics, token)
        self._jobs = Jobs(service, self.settings.jobs, self.settings) if self.settings.jobs else None
        self._study = Study(self.settings.study) if self.settings.study else None
        self.metrics.videos.set_function(lambda: self.videos.active)
        self.metrics.jobs.set_function(lambda: len(self._jobs.held) if self._jobs else 0)

    @property
    def has_jobs(self) -> bool:
        """Whether the endpoint accepts jobs."""
        return self._jobs is not None

    @property
    def has_study(self) -> bool:
        """Whether the endpoint has a study."""
        return self._study is not None

    @property
    def jobs(self) -> Jobs:
        """The jobs of the endpoint.

        Raises:
            ApiError: not_found, if the endpoint accepts no jobs.
        """
        if self._jobs is None:
            raise ApiError("not_found", "this endpoint accepts no jobs: it was started without a folder for them")
        return self._jobs

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
        """Starts the service, unless it is started, and the jobs.

        Raises:
            ArtifactError: bundle or teacher cannot be loaded.
        """
        if not self.service.ready:
            await self.service.start()
        if self._jobs:
            await self._jobs.start()

    async def stop(self) -> None:
        """Ends the live sessions, releases the jobs and unloads the bundles."""
        self.live.stop()
        if self._jobs:
            await self._jobs.stop()
        await self.service.close()
