"""The models of a worker's pipelines: the champions that passed, and any version on demand."""

import asyncio
from collections.abc import Mapping

from ml_core.data_processor.scaling_kernel import scale_rows
from model_ops_manager.champion import ChampionFollower, Check, ModelReader, Serving, load_serving

# A model is a few hundred kilobytes; a store that needs longer than this is treated as down.
LOAD_TIMEOUT_S = 60.0


class FollowedModels:
    """One follower of the alias ``champion`` per pipeline."""

    def __init__(self, agent: ModelReader, checks: Mapping[str, Check], poll_s: float) -> None:
        """Follow the pipelines of ``checks``, which say what fits them; ``run`` does the polling."""
        self.agent = agent
        self.followers = {
            name: ChampionFollower(agent, name, poll_s, check, scale_rows) for name, check in checks.items()
        }

    async def run(self) -> None:
        """Poll until cancelled."""
        await asyncio.gather(*(follower.run() for follower in self.followers.values()))

    async def look(self) -> None:
        """Poll once, so that a worker scores with the champion from its first tick on."""
        await asyncio.gather(*(follower.poll() for follower in self.followers.values()))

    def current(self, pipeline: str) -> Serving | None:
        """Return the champion that passed its probe; None while there is none."""
        return self.followers[pipeline].current

    async def load(self, pipeline: str, version: int) -> Serving:
        """Return ``version`` of ``pipeline``, probed; raises as ``load_serving`` does."""
        current = self.current(pipeline)
        if current is not None and current.version.version == version:
            return current
        check = self.followers[pipeline].check
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            return await asyncio.to_thread(load_serving, self.agent, pipeline, version, check, scale_rows)
