"""`squorflow limits`: which outside services may be called now, changing nothing."""

from __future__ import annotations

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, say, table


@click.command()
@json_option
def limits(*, as_json: bool) -> None:
    """Show circuit breakers, and what is used of each quota."""
    from squorflow.recovery import breakers, quotas

    with session.open_database(session.read_config()) as database, database.begin() as connection:
        circuits = breakers.list_breakers(connection)
        used = quotas.list_status(connection)
    if as_json:
        emit({"breakers": [plain(one) for one in circuits], "quotas": [plain(one) for one in used]})
        return
    if not circuits and not used:
        say("No outside service has failed, and none with a quota was called.")
    if circuits:
        table(
            ("service", "breaker", "failures", "open since", "next probe", "last error"),
            [
                (one.dependency, one.state, one.failures, one.opened_at, one.probe_at, one.last_error)
                for one in circuits
            ],
        )
    if used:
        table(
            ("service", "quota", "used", "allowed", "refused until"),
            [(one.dependency, one.quota, one.used, one.allowed, one.exhausted_until) for one in used],
        )
