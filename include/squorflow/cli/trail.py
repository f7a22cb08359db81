"""`squorflow audit verify`: the proof that every trail holds."""

from __future__ import annotations

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, progress, say, warn


@click.group()
def audit() -> None:
    """Prove the audit trail."""


@audit.command()
@json_option
@click.pass_context
def verify(context: click.Context, *, as_json: bool) -> None:
    """Replay every trail against its workflow's present state, hash by hash.

    Exit code 1 when something does not hold; each problem is listed.
    """
    from squorflow.workflow import audit as trails

    with session.open_database(session.read_config()) as database, progress(quiet=as_json) as display:
        bar = display.add_task("replaying trails", total=None) if display else None

        def show(done: int) -> None:
            if display and bar is not None:
                display.update(bar, completed=done)

        result = trails.verify(database, on_progress=show)
    if as_json:
        emit({"workflows": result.workflows, "problems": [plain(problem) for problem in result.problems]})
    else:
        for problem in result.problems:
            warn(f"{problem.workflow_id}: {problem.problem}")
        say(f"{result.workflows} trails replayed, {len(result.problems)} problems")
    context.exit(1 if result.problems else 0)
