"""The Docker Engine as a maker of sandboxes. See `engines.base.Engine` for what is guaranteed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import structlog
from docker import APIClient
from docker.errors import NotFound

from sandbox_server.engines.base import EngineInfo, Owner
from sandbox_server.engines.docker import labels
from sandbox_server.engines.docker.birth import Birth
from sandbox_server.engines.docker.client import DockerClient, image_missing
from sandbox_server.engines.docker.container import DockerContainer, remove
from sandbox_server.engines.docker.host import FIXES, Host, read_host
from sandbox_server.engines.docker.hostconfig import create_payload
from sandbox_server.engines.docker.seccomp import load_profiles
from sandbox_server.engines.docker.uids import Uids
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import ConfigError, EngineUnavailable

log = structlog.get_logger()

PARALLEL_STARTS = 4
"""Starts at once. More do not raise containers per second, they only make each slower."""


class DockerEngine:
    """Sandboxes of one owner on one engine.

    `resolve` turns the name of an image of ours into the engine's reference, or raises
    ConfigError. `insecure_allow_missing` names limits that the operator does without.
    """

    def __init__(
        self,
        owner: Owner,
        resolve: Callable[[str], str],
        *,
        base_url: str | None = None,
        insecure_allow_missing: frozenset[str] = frozenset(),
        parallel_starts: int = PARALLEL_STARTS,
    ) -> None:
        labels.check_owner(owner)
        self._owner = owner
        self._resolve = resolve
        self._client = DockerClient(base_url)
        self._allowed = insecure_allow_missing
        self._starts = anyio.CapacityLimiter(parallel_starts)
        self._seccomp = load_profiles()
        self._uids = Uids()
        self._host: Host | None = None
        self._starting: set[str] = set()
        self._live: dict[str, DockerContainer] = {}

    async def probe(self) -> EngineInfo:
        """What the engine is now; nothing is remembered from earlier."""
        self._host = None
        host = await self._know_host()
        for limit, reason in host.info.missing.items():
            if limit in self._allowed:
                log.warning("limit is missing by the operator's choice", limit=limit, reason=reason)
        return host.info

    async def check(self, profile: Profile) -> None:
        """Ask the engine afresh whether it can make `profile`."""
        self._host = None
        self._refuse(await self._know_host(), profile)
        reference = self._resolve(profile.image)
        await self._client.call(lambda api: _find_image(api, reference), abandon=True)

    async def start(self, profile: Profile, *, deadline: float) -> DockerContainer:
        """Create, attach, start. A cancelled or failed start has removed what it made."""
        image = self._resolve(profile.image)
        async with self._starts:
            host = await self._know_host()
            self._refuse(host, profile)
            uid = self._uids.take(await self._uids_of_others())
            name = labels.new_name()
            self._starting.add(name)
            payload = create_payload(
                profile,
                image=image,
                uid=uid,
                owner=self._owner,
                deadline=deadline,
                seccomp=self._seccomp[profile.seccomp],
                cgroup_driver=host.cgroup_driver,
                cgroup_version=host.cgroup_version,
                missing=self._allowed & host.info.missing.keys(),
            )
            birth = Birth(self._client, name)
            try:
                id, stream = await birth.perform(payload)
                container = DockerContainer(
                    self._client, stream, id=id, name=name, uid=uid, forget=self._forget
                )
                self._live[id] = container
                return container
            except BaseException:
                await birth.undo()
                # Even if that failed: what still exists is listed, and its uid with it.
                self._uids.release(uid)
                raise
            finally:
                self._starting.discard(name)

    def _forget(self, container: DockerContainer) -> None:
        self._live.pop(container.id, None)
        self._uids.release(container.uid)

    async def sweep(self) -> int:
        """Remove what earlier boots of this instance left behind."""
        left = [c["Id"] for c in await self._list() if c["Labels"].get(labels.BOOT_ID) != self._owner.boot_id]
        return await self._remove_all(left)

    async def reap(self, *, now: float) -> int:
        """Remove what is past its deadline, and what of this boot nobody owns."""
        before = set(self._live)  # what is listed may be destroyed by the time that we read the list
        due = [c["Id"] for c in await self._list() if self._is_due(c, now, before)]
        return await self._remove_all(due)

    def _is_due(self, listed: Mapping[str, Any], now: float, before: set[str]) -> bool:
        if labels.read_deadline(listed["Labels"]) <= now:
            return True
        if listed["Labels"].get(labels.BOOT_ID) != self._owner.boot_id:
            return False
        if listed["Id"] in self._live or listed["Id"] in before:
            return False
        return not any(name.lstrip("/") in self._starting for name in listed["Names"])

    async def aclose(self) -> None:
        """Remove every container of this boot and close the connection."""
        try:
            ours = {
                c["Id"] for c in await self._list() if c["Labels"].get(labels.BOOT_ID) == self._owner.boot_id
            }
            await self._remove_all([*(ours | self._live.keys())])
        finally:
            self._client.close()

    async def _remove_all(self, ids: list[str]) -> int:
        """Remove side by side; returns how many. Raises EngineUnavailable at the end if some are not gone."""
        failures: list[EngineUnavailable] = []
        places = anyio.CapacityLimiter(4)

        async def remove_one(id: str) -> None:
            container = self._live.get(id)
            async with places:
                try:
                    await (container.destroy() if container else remove(self._client, id))
                except EngineUnavailable as error:
                    failures.append(error)

        async with anyio.create_task_group() as group:
            for id in ids:
                group.start_soon(remove_one, id)
        if failures:
            raise failures[0]
        return len(ids)

    async def _list(self) -> list[dict[str, Any]]:
        return await self._list_by(f"{labels.INSTANCE}={self._owner.instance}")

    async def _list_by(self, label: str) -> list[dict[str, Any]]:
        def list_containers(api: APIClient) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = api.containers(all=True, filters={"label": label})
            return found

        return await self._client.call(list_containers)

    async def _uids_of_others(self) -> set[int]:
        """Other servers on this host draw from the same uids."""
        listed = await self._list_by(labels.UID)
        return {uid for c in listed if (uid := labels.read_uid(c["Labels"])) is not None}

    async def _know_host(self) -> Host:
        if self._host is None:
            info, version = await self._client.call(lambda api: (api.info(), api.version()), abandon=True)
            self._host = read_host(info, version, local=self._client.is_local)
        return self._host

    def _refuse(self, host: Host, profile: Profile) -> None:
        for limit, reason in host.info.missing.items():
            if limit not in self._allowed:
                raise ConfigError(
                    f"limit {limit!r} can't be applied: {reason}",
                    hint=f"{FIXES[limit]}; at your own risk: --insecure-allow-missing={limit}",
                )
        if profile.runtime not in host.info.runtimes:
            raise ConfigError(
                f"the engine has no runtime {profile.runtime!r}",
                hint="install it and name it in the engine's daemon.json, or choose another runtime",
            )
        if profile.limits.cpus > host.cpus:
            raise ConfigError(
                f"limit 'cpu': {profile.limits.cpus:g} cores are asked for, the host has {host.cpus}",
                hint=f"set cpus to at most {host.cpus}",
            )
        if profile.limits.memory > host.memory:
            raise ConfigError(
                f"limit 'memory': {profile.limits.memory} bytes are asked for, the host has {host.memory}",
                hint="ask for less: a limit above the host's memory limits nothing",
            )


def _find_image(api: APIClient, reference: str) -> None:
    try:
        api.inspect_image(reference)  # type: ignore[no-untyped-call]
    except NotFound as error:
        raise image_missing(reference) from error
