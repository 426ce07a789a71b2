"""How often an engine's prefix cache was hit, from inside the engine to the run record.

A vLLM stat-logger plugin (entry point `vllm.stat_logger_plugins`, see pyproject.toml). It stays silent unless
the environment names an actor to report to, and tells it totals at most once a second. vLLM's own export through
Ray's metrics costs about an eighth of a tiny model's speed, this costs nothing that can be measured.
"""

import os
import time
from typing import Any

import ray
from vllm.v1.metrics.loggers import StatLoggerBase

from ecr_ray.scoring.engine_stats_actor import VARIABLE

_EVERY_S = 1.0


class PrefixCacheReporter(StatLoggerBase):
    """Adds up an engine's prefix-cache queries and hits (tokens) and reports them."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        name = os.environ.get(VARIABLE)
        self._actor = ray.get_actor(name) if name and ray.is_initialized() else None
        self._engine = f"{os.getpid()}.{engine_index}@{ray.util.get_node_ip_address()}" if self._actor else ""
        self._queries = self._hits = 0
        self._first_step: float | None = None
        self._reported = 0.0

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Called by vLLM after every engine step."""
        if self._actor is None or scheduler_stats is None:
            return
        if self._first_step is None:
            self._first_step = time.time()
        self._queries += scheduler_stats.prefix_cache_stats.queries
        self._hits += scheduler_stats.prefix_cache_stats.hits
        # An idle engine reports at once: its next step may be far off, or never come.
        idle = scheduler_stats.num_running_reqs == 0 and scheduler_stats.num_waiting_reqs == 0
        if idle or time.monotonic() - self._reported > _EVERY_S:
            self._actor.report.remote(self._engine, self._queries, self._hits, self._first_step)
            self._reported = time.monotonic()

    def log_engine_initialized(self) -> None:
        """Nothing to say."""
