"""One failure at a time, injected into a whole Airflow, each with one product: the rows of docs/recovery.md's table.

Owns the failures. `python -m support.recovery_table` runs them; a new one is a function with `@scenario` here.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from uuid import uuid4

import psutil
from sqlalchemy import text

from squorflow.workflow.actions import PersonAction, act
from support.image_server import Answer, picture
from support.recovery_scene import Scene

SETTINGS = {"WORKFLOW_IMAGES_PER_PRODUCT": "1"}

Scenario = Callable[[Scene], None]
SCENARIOS: dict[str, Scenario] = {}
"""By the failure's name, in the order of the table."""


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Make a function a row of the table."""

    def add(function: Scenario) -> Scenario:
        SCENARIOS[name] = function
        return function

    return add


@scenario("kill -9 of a task")
def _kill_task(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        scene.hit()
        scene.ground.send(task.process, signal.SIGKILL)
    scene.wait_for_state("completed")


@scenario("SIGTERM of a task (its worker is shut down)")
def _end_task(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        scene.hit()
        scene.ground.send(task.process, signal.SIGTERM)
        scene.ground.wait_for(lambda: not _runs(task.process), what="the task's end")
    scene.wait_for_state("completed")


@scenario("task cleared in the UI while it runs")
def _clear_task(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        scene.hit()
        scene.ground.clear(task)
        scene.ground.wait_for(lambda: not _runs(task.process), what="the task's end")
    scene.wait_for_state("completed")


@scenario("kill -9 of its supervisor; the task lives on")
def _kill_supervisor(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        assert task.supervisor is not None
        scene.hit()
        scene.ground.send(task.supervisor, signal.SIGKILL)
    scene.wait_for_state("completed")


@scenario("kill -9 of task and supervisor (the machine is gone)")
def _kill_both(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        assert task.supervisor is not None
        scene.hit()
        scene.ground.send(task.supervisor, signal.SIGKILL)
        scene.ground.send(task.process, signal.SIGKILL)
    scene.wait_for_state("completed")


@scenario("kill -9 of task and supervisor once the stage is written, before Airflow hears of it")
def _kill_both_after_the_stage(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        assert task.supervisor is not None
        # It would pass on that the task is done.
        scene.ground.send(task.supervisor, signal.SIGSTOP)
    scene.wait_until_written()
    scene.hit()
    scene.ground.send(task.supervisor, signal.SIGKILL)
    scene.ground.send(task.process, signal.SIGKILL)
    scene.wait_for_state("completed")


@scenario("kill -9 of the scheduler with its workers, then a new one")
def _kill_scheduler(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        scene.wait_until_asked()
        scene.hit()
        scene.ground.kill_scheduler()
        scene.ground.start("scheduler")
    scene.wait_for_state("completed")


@scenario("task stopped (SIGSTOP) past its lease, then woken")
def _stop_task(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        scene.hit()
        scene.ground.send(task.process, signal.SIGSTOP)
        scene.wait_for_move(to="failed", reason="worker lost")
    scene.wait_for_state("completed")
    scene.ground.send(task.process, signal.SIGCONT)
    scene.ground.wait_for(lambda: not _runs(task.process), what="the woken task's end")


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@scenario("kill -9 of a task on the workflow's last try")
def _last_try(scene: Scene) -> None:
    with scene.held():
        scene.queue(max_retries=0)
        task = scene.wait_until_asked()
        scene.hit()
        scene.ground.send(task.process, signal.SIGKILL)
        scene.wait_for_state("failed")
    scene.returns = f"parked after {scene.seconds_until('failed'):.1f} s, until `squorflow deadletter replay`"


@scenario("Postgres restarted (immediate) during the claim")
def _restart_in_claim(scene: Scene) -> None:
    scene.watched = "pull"
    scene.restart_postgres_while("run_claim", mode="EXCLUSIVE", begin=scene.queue)
    scene.wait_for_state("completed")


@scenario("Postgres restarted (immediate) while a stage is being written")
def _restart_in_finish(scene: Scene) -> None:
    def begin() -> None:
        scene.queue()

    scene.watched = "discovery"
    scene.restart_postgres_while("workflow_checkpoint", mode="EXCLUSIVE", begin=begin)
    scene.wait_for_state("completed")


@scenario("Postgres restarted (immediate) during reaping")
def _restart_in_reaping(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        assert task.supervisor is not None
        dead = task.supervisor

        def begin() -> None:
            scene.ground.send(dead, signal.SIGKILL)
            scene.ground.send(task.process, signal.SIGKILL)

        scene.restart_postgres_while("workflow_transitions", mode="EXCLUSIVE", begin=begin)
    scene.wait_for_state("completed")


@scenario("DAG run marked failed and deleted in the UI")
def _delete_run(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        scene.hit()
        # Airflow deletes no run that is running.
        scene.ground.change_run(task.run_id, state="failed")
        scene.ground.change_run(task.run_id, state=None)
        scene.ground.wait_for(lambda: not _runs(task.process), what="the task's end")
    scene.wait_for_state("completed")


@scenario("DAG run marked failed in the UI")
def _mark_run_failed(scene: Scene) -> None:
    with scene.held():
        scene.queue()
        task = scene.wait_until_asked()
        scene.hit()
        scene.ground.change_run(task.run_id, state="failed")
        scene.ground.wait_for(lambda: not _runs(task.process), what="the task's end")
    scene.ground.wait_for(
        lambda: scene.state() in {"completed", "suspended", "failed"},
        what="where the product ends",
        patience_seconds=300,
    )
    if scene.state() != "completed":
        scene.returns = f"{scene.state()}: a person ended it, `squorflow retry` takes it up"


@scenario("Gemini answers 429 with RetryInfo (6 s)")
def _rate_limit(scene: Scene) -> None:
    _gemini_fails(scene, "429_retry_info")


@scenario("Gemini answers 503")
def _overloaded(scene: Scene) -> None:
    _gemini_fails(scene, "503")


@scenario("Gemini's answer is cut short")
def _truncated(scene: Scene) -> None:
    _gemini_fails(scene, "truncated_body")


@scenario("Gemini does not answer in time")
def _slow(scene: Scene) -> None:
    _gemini_fails(scene, "slow")


def _gemini_fails(scene: Scene, mode: str) -> None:
    scene.gemini.script(mode, "ok")
    scene.queue()
    scene.hit_at_first_failure()
    scene.wait_for_state("completed")


@scenario("image host down, the product has text")
def _images_down(scene: Scene) -> None:
    scene.watched = "image_fetch"
    scene.queue(images=[f"http://127.0.0.1:{_closed_port()}/pack.png"])
    scene.hit()
    scene.wait_for_state("completed")
    scene.returns = "goes on without the image"


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@scenario("image host down, the product has nothing else")
def _only_images_down(scene: Scene) -> None:
    scene.watched = "image_fetch"
    path = f"/{uuid4().hex}.png"
    down = [Answer(status=503)] * 2
    address = scene.images.serve(path, *down, Answer(body=picture()))
    scene.queue(images=[address], extracted_data={})
    scene.hit_at_first_failure()
    scene.wait_for_state("completed")


@scenario("image store dead (cannot be written)")
def _dead_store(scene: Scene) -> None:
    scene.watched = "image_fetch"
    store = scene.ground.image_store
    alive = store.with_suffix(".away")
    if store.exists():
        store.rename(alive)
    store.touch()
    address = scene.images.serve_picture(f"/{uuid4().hex}.png", picture(colour=f"#{uuid4().hex[:6]}"))
    scene.queue(images=[address])
    scene.hit_at_first_failure()
    store.unlink()
    if alive.exists():
        alive.rename(store)
    scene.wait_for_state("completed")


@scenario("Gemini's daily quota is used up")
def _daily_quota(scene: Scene) -> None:
    scene.gemini.script("429_per_day", "ok")
    scene.queue()
    scene.hit_at_first_failure()
    scene.wait_for_state("retrying")
    (row,) = scene.ground.query(
        """
        SELECT to_char(next_retry_at AT TIME ZONE 'America/Los_Angeles', 'HH24:MI') AS at
        FROM processing_queue WHERE queue_id = :id
        """,
        id=scene.workflow_id,
    )
    scene.returns = f"when the quota is reset: its retry is due at {row.at} Pacific time"
    # The day is not waited for: a bought quota is entered by hand, and the product taken up by a person.
    with scene.ground.database.begin() as connection:
        connection.execute(text("UPDATE quota_usage SET exhausted_until = NULL"))
        act(connection, PersonAction.RETRY, workflow_id=scene.workflow_id, actor="cli:table", reason="quota bought")
    scene.wait_for_state("completed")


@scenario("Gemini refuses the key")
def _bad_key(scene: Scene) -> None:
    _gemini_fails(scene, "bad_key")
