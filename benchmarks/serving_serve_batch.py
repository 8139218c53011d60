"""The service with `@serve.batch` in the place of its own gatherer, to be measured beside it.

`python benchmarks/serving_serve_batch.py WAIT_MS BUNDLE --port …`: all else is the same.
"""

from __future__ import annotations

import sys
from typing import Any

from distributed_fmlp import serve as command
from distributed_fmlp.serving import launch


def serve_batch_replica() -> Any:
    """The deployment's class; made when Ray's environment is set, as Ray reads that at import."""
    from ray import serve

    from distributed_fmlp.serving.replica import Replica

    class ServeBatchReplica(Replica):
        """Every work is an item of Serve's queue; its batches are as large as the service's."""

        def _gatherer(self) -> Any:
            batched: Any = self._batched
            batched.set_max_batch_size(self._settings.max_batch_size)
            batched.set_batch_wait_timeout_s(self._settings.batch_wait_ms / 1000)
            return batched

        @serve.batch(
            max_batch_size=128,
            batch_wait_timeout_s=0.0,
            batch_size_fn=lambda works: sum(len(work.images) for work in works),
        )
        async def _batched(self, works: Any) -> Any:
            return await self._infer(works)

    return ServeBatchReplica


def main() -> int:
    deploy = launch._deploy

    def deploy_it(*arguments: Any) -> None:
        from distributed_fmlp.serving import app

        app.Replica = serve_batch_replica()
        deploy(*arguments)

    launch._deploy = deploy_it
    wait, *words = sys.argv[1:]
    return command.main([*words, "--batch-wait-ms", wait])


if __name__ == "__main__":
    sys.exit(main())
