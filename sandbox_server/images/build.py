"""Build the sandbox images that are missing or stale, each parent before its child."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from sandbox_server.engines.base import ImageBuild, ImageStore
from sandbox_server.errors import ConfigError
from sandbox_server.images import rootfs, wheels
from sandbox_server.images.lock import held
from sandbox_server.images.progress import Progress, Report, reporter
from sandbox_server.images.recipes import DEFAULT, LABEL_STAGE, Recipe, recipe

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


async def build(
    store: ImageStore,
    names: Sequence[str] = DEFAULT,
    *,
    report: Report,
    fresh: bool = False,
    ca_bundle: Path | None = None,
    cache: Path | None = None,
    root: Path | None = None,
) -> dict[str, str]:
    """Bring the images up to date; returns name -> image id. Quick when nothing is stale.

    `fresh` builds everything again with the Debian packages of today. `cache` keeps wheels between
    builds (default: the user's cache directory). Two processes that build at once take turns.
    Raises ConfigError (a step failed: the log's end is in the message), EngineUnavailable.
    """
    wanted = [recipe(name, root) for name in names]
    if not fresh and (present := await _present(store, wanted)):
        return present
    lock = default_cache() / "build.lock"
    async with held(lock, waiting=lambda: report(Progress("", "another build is running"))):
        job = _Job(store, report=report, fresh=fresh, ca_bundle=ca_bundle, cache=cache or default_cache())
        try:
            return {name: await job.ensure(one) for name, one in zip(names, wanted, strict=True)}
        finally:
            await job.clear()


def default_cache() -> Path:
    """Where wheels and the build lock are: XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mcp-sandbox-server"


async def _present(store: ImageStore, wanted: Iterable[Recipe]) -> dict[str, str]:
    """name -> id if every one is there, else nothing."""
    found: dict[str, str] = {}
    for one in wanted:
        image = await store.find(one.tag)
        if image is None:
            return {}
        found[one.name] = image.id
    return found


class _Job:
    """One call of `build`; remembers what it has made, so that `fresh` makes each image once."""

    def __init__(
        self, store: ImageStore, *, report: Report, fresh: bool, ca_bundle: Path | None, cache: Path
    ) -> None:
        self._store = store
        self._report = report
        self._fresh = fresh
        self._ca_bundle = ca_bundle
        self._cache = cache
        self._made: dict[str, str] = {}

    async def ensure(self, one: Recipe) -> str:
        if one.tag in self._made:
            return self._made[one.tag]
        if not self._fresh and (image := await self._store.find(one.tag)):
            return image.id
        if one.parent:
            await self.ensure(one.parent)
        else:
            await rootfs.ensure(self._store, fresh=self._fresh, log=reporter("rootfs", self._report))
        self._made[one.tag] = await self._build(one)
        return self._made[one.tag]

    async def clear(self) -> None:
        """Drop inner stages of builds; only what a build that runs right now still needs stays."""
        for image in await self._store.labelled(LABEL_STAGE):
            if not image.tags:
                # In use means that a build without our lock runs; that one will clear up itself.
                with suppress(ConfigError):
                    await self._store.remove(image.id)

    async def _build(self, one: Recipe) -> str:
        log = reporter(one.name, self._report)
        fetched = []
        if one.lock:
            fetched = await wheels.fetch(one.lock, self._cache, ca_bundle=self._ca_bundle, log=log)
        files = [*one.files, *((f"wheels/{wheel.name}", wheel) for wheel in fetched)]
        with tempfile.NamedTemporaryFile(prefix="sandbox-context-") as context:
            _pack(files, context.name)
            proxies = {name: os.environ[name] for name in _PROXIES if os.environ.get(name)}
            made = await self._try(
                ImageBuild(
                    tag=one.tag,
                    context=Path(context.name),
                    labels=one.labels,
                    arguments={**proxies, "PARENT": one.parent_tag},
                    fresh=self._fresh,
                ),
                log,
            )
        self._report(Progress(image=one.name, line=f"built {one.tag}", fraction=1.0))
        return made

    async def _try(self, build: ImageBuild, log: rootfs.Log) -> str:
        try:
            return await self._store.build(build, log=log)
        except ConfigError as error:
            if "certificate" not in error.hint.lower():
                raise
            raise ConfigError(
                f"{error.message}: apt inside the build can't verify the mirror's certificate",
                hint="a CA never enters a build: use an http mirror (apt checks signatures itself)\n"
                + error.hint,
            ) from error


def _pack(files: Iterable[tuple[str, Path]], target: str) -> None:
    """The same inputs give the same tar: the engine's layer cache must not see who built or when."""
    with tarfile.open(target, "w") as tar:
        for name, path in files:
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            entry.mode = 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)
