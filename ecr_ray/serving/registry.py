"""Who keeps the adapters' state: one actor writes it, everybody else asks; a Serve deployment (see app.py)."""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecr_ray.config import ServeConfig
from ecr_ray.models import tiny
from ecr_ray.serving import adapters
from ecr_ray.serving.adapters import AdapterError, State, Version

LOOK_S = 2.0
# An ingress reports twice a second.
GONE_S = 5.0
log = logging.getLogger("ray.serve")


class Registry:
    """Watches the directory of adapters, has each checked and tried, and keeps what was decided."""

    def __init__(self, settings: ServeConfig, policy: Any) -> None:
        """Of an endpoint.

        Args:
            settings: its.
            policy: who tries versions: a handle of the policy; None: the ingress does, which has the engine.
        """
        self._settings, self._policy = settings, policy or _ingress()
        self._folder = Path(settings.output).absolute() / "adapters"
        self._store, self._path = self._folder / ".store", Path(settings.output).absolute() / "adapters.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stamps: dict[str, Any] = {}
        self._done: dict[str, Any] = {}
        self._ingresses: dict[str, float] = {}
        self._state = self._begin()
        self._one_at_a_time = asyncio.Lock()
        self._watch = asyncio.get_running_loop().create_task(self._watching())

    async def state(self) -> State:
        """What answers now."""
        return self._state

    async def report(self, who: str, answers: Sequence[tuple[str, bool, float | None]]) -> tuple[State, int]:
        """Count answers: version, whether it failed, the critic's rating. A trial may end by it.

        Args:
            who: the replica of the ingress that gave them.

        Returns:
            What answers now, and how many replicas of the ingress there are.
        """
        now = time.monotonic()
        self._ingresses = {w: at for w, at in self._ingresses.items() if now - at < GONE_S} | {who: now}
        state = self._state
        for version, failed, rating in answers:
            state = adapters.report(state, version, failed, rating)
        if state is not self._state:
            self._set(adapters.decide(state, self._settings.canary_answers))
        return self._state, len(self._ingresses)

    async def add(self, name: str, digest: str | None) -> Version:
        """Take an adapter of the directory now; the version that it became.

        Raises:
            AdapterError: it cannot be served.
        """
        return await self._take(name, digest)

    async def promote(self, version: str | None, reason: str) -> State:
        """Make a version live; None: the one on trial.

        Raises:
            AdapterError: there is none.
        """
        chosen = version or self._state.canary
        if chosen is None:
            raise AdapterError("no version is on trial: name the one to promote")
        found = self._state.find(chosen)
        if found is not None and (wrong := await self._policy.probe.remote(found)):
            raise AdapterError(f"{found.id}: {wrong}")
        self._set(adapters.promote(self._state, found.id if found else chosen, reason))
        return self._state

    async def roll_back(self, reason: str) -> State:
        """End the trial, or go back to what was live before.

        Raises:
            AdapterError: there is nothing to go back to.
        """
        self._set(adapters.roll_back(self._state, reason))
        return self._state

    async def check_health(self) -> None:
        """For Serve: raises where nobody watches the directory any more, and Serve starts another."""
        if self._watch.done():
            self._watch.result()
            raise RuntimeError("the directory is not watched any more")

    def _begin(self) -> State:
        settings = self._settings
        kept = adapters.read(self._path)
        if kept is not None:
            if settings.base not in kept.versions:
                raise AdapterError(f"{self._path} is of another base model than {settings.base}: take another --output")
            return kept
        first = None
        if settings.adapter:
            place = Path(tiny.resolve_model(settings.adapter))
            place = adapters.check(place, settings.base, settings.max_lora_rank)
            first = adapters.keep(Path(settings.adapter).name, place, self._store)
        state = adapters.start(settings.base, first)
        adapters.write(state, self._path)
        return state

    def _set(self, state: State) -> None:
        if state != self._state:
            turned = [v for key, v in state.versions.items() if v != self._state.versions.get(key)]
            for version in turned:
                log.info("adapter %s is %s: %s", version.id, version.status, version.reason)
            adapters.write(state, self._path)
            self._state = state

    async def _watching(self) -> None:
        # Loads the live one, which then is no visitor's to wait for.
        if wrong := await self._policy.probe.remote(self._state.pick(1.0)):
            log.error("the live version cannot answer: %s", wrong)
        while True:
            await asyncio.sleep(LOOK_S)
            for name in await asyncio.to_thread(self._new):
                try:
                    await self._take(name, None)
                except AdapterError as error:
                    log.warning("adapter %s: %s", name, error)
            self._set(adapters.try_next(self._state, self._settings.canary_share))

    def _new(self) -> list[str]:
        """Directories that have changed, and then stayed as they are from one look to the next."""
        found = []
        for directory in sorted(self._folder.iterdir()):
            if directory.name.startswith(".") or not directory.is_dir():
                continue
            files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
            stamp = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
            if stamp and stamp == self._stamps.get(directory.name) != self._done.get(directory.name):
                found.append(directory.name)
            self._stamps[directory.name] = stamp
        return found

    async def _take(self, name: str, digest: str | None) -> Version:
        async with self._one_at_a_time:
            self._done[name] = self._stamps.get(name)
            try:
                rank = self._settings.max_lora_rank
                place = await asyncio.to_thread(adapters.check, self._folder / name, self._settings.base, rank)
                version = await asyncio.to_thread(adapters.keep, name, place, self._store)
            except AdapterError as error:
                self._set(adapters.reject(self._state, Version(name, "", str(self._folder / name)), str(error)))
                raise
            if digest is not None and digest != version.digest:
                raise AdapterError(f"the digest of {name} is {version.digest}, not {digest}")
            known = self._state.versions.get(version.id)
            if known is not None and known.status != "rejected":
                return known
            if wrong := await self._policy.probe.remote(version):
                self._set(adapters.reject(self._state, version, wrong))
                raise AdapterError(f"{version.id}: {wrong}")
            self._set(adapters.add(self._state, version))
            self._set(adapters.try_next(self._state, self._settings.canary_share))
            return self._state.versions[version.id]


def _ingress() -> Any:
    """The ingress of the application that this replica belongs to; it is bound after the registry, which it asks."""
    from ray import serve

    return serve.get_deployment_handle("ingress", serve.get_replica_context().app_name)
