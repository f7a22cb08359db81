"""What the browser's suites share: patience, and pages that tell on themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Page

PATIENCE = 60_000
"""Milliseconds until a page counts as not coming, on a machine with much else to do."""

Opener = Callable[..., Page]
"""Opens a path; takes `role`, `mode` (light or dark) and `width`."""


@dataclass
class Told:
    """What a page said that it should not have, and whom it asked."""

    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    expected: list[str] = field(default_factory=list)
    """Parts of complaints that the test provokes."""

    def listen(self, page: Page) -> None:
        page.on("console", lambda one: self._complain(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda one: self._complain(str(one)))
        page.on("dialog", lambda one: (self._complain(f"dialog: {one.message}"), one.dismiss()))
        page.on("request", lambda one: self.hosts.add(urlsplit(one.url).hostname or ""))

    def _complain(self, text: str) -> None:
        self.complaints.append(text)

    def unexpected(self) -> list[str]:
        return [one for one in self.complaints if not any(part in one for part in self.expected)]
