"""Run as a program: makes one user for each role in the database of FAB's auth manager."""

from __future__ import annotations

import sys

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder


def main() -> None:
    """Make a user `<role>` with the password `<role>-secret` for each role named on the command line."""
    with get_application_builder() as builder:
        manager = builder.sm
        manager.sync_roles()
        for role in sys.argv[1:]:
            found = manager.find_role(role.capitalize())
            manager.add_user(
                username=role,
                first_name=role,
                last_name="of the tests",
                email=f"{role}@example.org",
                role=found,
                password=f"{role}-secret",
            )


if __name__ == "__main__":
    main()
