"""`squorflow audit verify`: the proof that every trail holds."""

from __future__ import annotations

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, progress, say, warn


@click.group()
def audit() -> None:
    """Prove the audit trail."""


@audit.command()
@click.option("--archive", "with_archive", is_flag=True, help="Read all archived months back as well.")
@json_option
@click.pass_context
def verify(context: click.Context, *, with_archive: bool, as_json: bool) -> None:
    """Replay every trail against its workflow's present state, hash by hash, and compare the heads exported by upkeep.

    A trail whose beginning is archived is replayed from its anchor. Exit code 1 when something does not
    hold; each problem is listed.
    """
    from squorflow.monitoring import archive, heads
    from squorflow.workflow import audit as trails

    config = session.read_config()
    with session.open_database(config) as database, progress(quiet=as_json) as display:
        bar = display.add_task("replaying trails", total=None) if display else None

        def show(done: int) -> None:
            if display and bar is not None:
                display.update(bar, completed=done)

        result = trails.verify(database, on_progress=show)
        compared, rewritten = heads.compare_heads(database, config=config)
        months, damaged = archive.verify_archive(database, config=config) if with_archive else (0, [])
    problems = [*result.problems, *rewritten]
    if as_json:
        emit(
            {
                "workflows": result.workflows,
                "problems": [plain(problem) for problem in problems],
                "heads": compared,
                **({"archived_months": months, "archive_problems": damaged} if with_archive else {}),
            }
        )
    else:
        for problem in problems:
            warn(f"{problem.workflow_id}: {problem.problem}")
        for text in damaged:
            warn(text)
        if not compared:
            # A folder below another directory than upkeep's is easily taken for an empty one.
            warn(
                f"There are no exported heads in {archive.open_store(config).describe()}, so a trail that was "
                "rewritten as a whole would not show. Upkeep exports them; WORKFLOW_ARCHIVE_STORE says where."
            )
        read_back = f", {months} archived months read back" if with_archive else ""
        count = len(problems) + len(damaged)
        say(f"{result.workflows} trails replayed, {compared} exported heads compared{read_back}, {count} problems")
    context.exit(1 if problems or damaged else 0)
