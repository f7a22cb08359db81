"""`WorkflowOrchestrator`: runs workflows inside a Python program, for programs that await.

Owns the life of a service and its tie to the event loop. Works in threads, so a busy loop does not slow a stage nor a
stage the loop. Beside a running DAG and other orchestrators each product is still worked on once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from squorflow.config import WorkflowConfig, get_config
from squorflow.events.registry import Handler, HandlesEvents, describe, get_handlers
from squorflow.orchestrator.engine import name_actor, open_database, read_id
from squorflow.orchestrator.outcomes import DrainReport
from squorflow.orchestrator.preparing import check_schema
from squorflow.orchestrator.service import Service
from squorflow.workflow import actions, listing

if TYPE_CHECKING:
    from types import TracebackType

    from squorflow.postgres.database import Database

MOST_WORKERS = 64

_guards: set[asyncio.Task[None]] = set()
"""An event loop forgets tasks that nobody holds, and a program may well let go of an orchestrator that works."""


class WorkflowOrchestrator:
    """Workers in this process; `start` begins and returns, `stop` gives back what they had begun.

    It also ends with the event loop that started it, so Ctrl-C under `asyncio.run` leaves nothing behind.
    """

    def __init__(
        self,
        *,
        num_workers: int | None = None,
        config: WorkflowConfig | None = None,
        database: Database | None = None,
    ) -> None:
        """Prepare it; settings and database are those of this process unless named, nothing is opened yet."""
        config = config or get_config()
        workers = config.num_workers if num_workers is None else num_workers
        if not 1 <= workers <= MOST_WORKERS:
            raise ValueError(f"num_workers is {workers}: it has to be from 1 to {MOST_WORKERS}")
        self._config = config.model_copy(update={"num_workers": workers})
        self._named = database
        self._handlers: list[Handler] = []
        self._service: Service | None = None
        self._starting = False
        self._guard: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to work and return; what is queued now and later is worked on until `stop`.

        Raises `ConfigurationError` when the database or a setting is not fit for it, `RuntimeError` when it runs.
        """
        if self._service is not None or self._starting:
            raise RuntimeError("this orchestrator runs already: stop it first, or make another one")
        self._starting = True
        known = len(self._handlers)
        try:
            service = await asyncio.to_thread(self._prepare, self._handlers[:known])
        finally:
            self._starting = False
        for late in self._handlers[known:]:
            service.messenger.add(late)
        service.start()
        self._service = service
        self._guard = asyncio.create_task(_end_with_the_loop(service), name="orchestrator-guard")
        _guards.add(self._guard)
        self._guard.add_done_callback(_guards.discard)

    async def stop(self, *, reason: str = "its orchestrator was stopped") -> DrainReport | None:
        """Cancel the stages that run, give all products back and return what was done since `start`.

        What it had begun is due again at once and costs no try. Event handlers get the time of one event for what they
        have not been told. `None`: it was not running. Raises what ended the workers by itself before.
        """
        # Both at once: it may be started again before this one has ended.
        service, self._service = self._service, None
        guard, self._guard = self._guard, None
        if service is None:
            return None
        await asyncio.to_thread(service.stop, reason)
        if guard is not None and guard.get_loop() is asyncio.get_running_loop():
            guard.cancel()
            await asyncio.wait([guard])
        return service.result()

    async def drain(self) -> DrainReport:
        """Return once nothing is left to do but what others hold, and say what was done since `start`.

        Retries that are due later are waited for. It goes on working afterwards. Raises `RuntimeError` when it does not
        run, `Cancelled` when it is stopped meanwhile, and what ended the workers.
        """
        if self._service is None:
            raise RuntimeError("this orchestrator does not run: start it first")
        service = self._service
        await asyncio.wrap_future(service.ask_when_empty())
        return await asyncio.to_thread(service.report)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.stop(reason="its program went on" if error is None else f"its program ended: {type(error).__name__}")

    async def get_workflow_status(self, workflow_id: UUID | str) -> dict[str, Any]:
        """Return where a workflow stands, in the shape of the API's status; raises `WorkflowNotFound`."""
        which = read_id(workflow_id)

        def read() -> dict[str, Any]:
            with open_database(self._named).begin() as connection:
                return listing.get_status(connection, which).as_dict()

        return await asyncio.to_thread(read)

    async def retry_workflow(self, workflow_id: UUID | str, *, reason: str = "retried by a program") -> dict[str, Any]:
        """Queue what failed, is suspended or waits for its retry, with all its tries; return its status then.

        Raises `InvalidTransition` where that is not possible, and `WorkflowNotFound`.
        """
        which = read_id(workflow_id)

        def retry() -> dict[str, Any]:
            with open_database(self._named).begin() as connection:
                actions.act(
                    connection,
                    actions.PersonAction.RETRY,
                    workflow_id=which,
                    actor=name_actor("python"),
                    reason=reason,
                )
                return listing.get_status(connection, which).as_dict()

        return await asyncio.to_thread(retry)

    def add_event_handler(self, handler: HandlesEvents, *, name: str | None = None) -> None:
        """Have `handler` told what happens while this orchestrator runs, beside the configured handlers.

        What happens while it does not run waits under the handler's name; `name` is for a second one of a class. Raises
        `ConfigurationError` for what is no handler, and for a name that is taken.
        """
        described = describe(handler, name=name)
        if self._service is not None:
            self._service.messenger.add(described)
        else:
            get_handlers(self._config, more=[*self._handlers, described])
        self._handlers.append(described)

    def _prepare(self, handlers: list[Handler]) -> Service:
        from squorflow.postgres.database import Database
        from squorflow.stages import make_clients

        # Connections of its own, enough for all its workers.
        address = open_database(self._named).url
        database = Database(address, config=self._config)
        try:
            check_schema(database)
            return Service(database, config=self._config, clients=make_clients(self._config), handlers=handlers)
        except BaseException:
            database.close()
            raise


async def _end_with_the_loop(service: Service) -> None:
    """Stop a service when this task is cancelled, as all are that are left when `asyncio.run` ends."""
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await asyncio.to_thread(service.stop, "its event loop ended")
