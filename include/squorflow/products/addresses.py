"""Outside addresses: which ones are web addresses at all, and which ones squorflow may ask.

Owns what an address says: its form, scheme, host and port. Where its host leads is looked up and checked by `outside`
when it connects; which IP addresses are public is `public_networks`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from pydantic_core import Url
from pydantic_core import ValidationError as PydanticError

from squorflow.errors import DataError
from squorflow.products.public_networks import why_not_public

BUNDLED = "bundled"
"""The scheme of images that come with the package: `bundled:oats.png`."""
_BUNDLED_NAME = re.compile(r"bundled:([A-Za-z0-9][A-Za-z0-9_-]{0,60}\.[a-z]{3,4})")
_MAX_LENGTH = 2048
_MAX_KEY = 400
_WEB = frozenset({"http", "https"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PUBLIC_PORTS = frozenset(_DEFAULT_PORTS.values())
"""Ports on which a stranger's host may be asked; on others something else than a web server listens."""
_TRACKING = re.compile(r"utm_\w*|[gdy]clid|fbclid|msclkid|gad_source|igshid|mc_[ce]id|_ga|srsltid|ref_", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address that may be asked. `bundled_name` is the file in the package, `None` for one on the network."""

    url: str
    host: str
    """Name or IP address with its port, as `WORKFLOW_IMAGE_ALLOW` takes it and as people read it."""
    name: str = ""
    """Name or IP address alone, without the brackets of IPv6: what is looked up."""
    port: int = 0
    trusted: bool = False
    """Named by the operator, so it may be private."""
    bundled_name: str | None = None


def web_address(text: str) -> str | None:
    """Return `text` as a normalised http or https address (punycode host, escaped path); `None` if it is none."""
    parsed = _parse(text)
    return str(parsed) if parsed else None


def image_address(text: str) -> str | None:
    """Return `text` as a web address or a bundled one; `None` if it is neither."""
    return text if _BUNDLED_NAME.fullmatch(text) else web_address(text)


def page_key(url: str) -> str:
    """Return the key of a page: its address without fragment and tracking parameters, the others sorted.

    Raises `ValueError` if `url` is no web address.
    """
    parsed = _parse(url)
    if parsed is None:
        raise ValueError(f"{url[:100]!r} is no web address")
    query = sorted(
        (key, value)
        for key, value in parse_qsl(parsed.query or "", keep_blank_values=True)
        if not _TRACKING.fullmatch(key)
    )
    port = "" if parsed.port == _DEFAULT_PORTS[parsed.scheme] else f":{parsed.port}"
    path = (parsed.path or "/").rstrip("/") or "/"
    key = f"{parsed.scheme}://{parsed.host}{port}{path}" + (f"?{urlencode(query)}" if query else "")
    return bounded(key)


def bounded(key: str) -> str:
    """Return `key`, or its beginning and its SHA-256 where it is too long for an index."""
    if len(key) <= _MAX_KEY:
        return key
    return f"{key[: _MAX_KEY // 2]}#{hashlib.sha256(key.encode()).hexdigest()}"


def admit(url: str, *, allow: Collection[str]) -> Address:
    """Return the address if squorflow may ask it, else raise `DataError` (`address_not_admitted`).

    Hosts in `allow` (lower case, as `host` for any port or `host:port`) are trusted. Every other one must lie on port
    80 or 443 and must not be the literal address of anything private. Nothing is looked up here: that a name leads to
    a public address is checked where the connection is made (`outside.outside_client`).
    """
    bundled = _BUNDLED_NAME.fullmatch(url)
    if bundled:
        return Address(url=url, host=BUNDLED, bundled_name=bundled.group(1))
    parsed = _parse(url)
    if parsed is None or parsed.host is None or parsed.username or parsed.password:
        raise _not_admitted("it is no plain http or https address")
    port = parsed.port or _DEFAULT_PORTS[parsed.scheme]
    name = parsed.host.strip("[]")
    host = f"{parsed.host}:{port}"
    trusted = parsed.host in allow or host in allow
    if not trusted:
        if port not in _PUBLIC_PORTS:
            raise _not_admitted(f"{host} is on another port than 80 and 443")
        _check_literal(name)
    return Address(url=str(parsed), host=host, name=name, port=port, trusted=trusted)


def _check_literal(name: str) -> None:
    """Refuse the literal address of something private before anything is looked up."""
    try:
        why = why_not_public(name)
    except ValueError:
        return
    if why:
        raise _not_admitted(f"{name} is {why}")


def _not_admitted(why: str) -> DataError:
    return DataError(f"address not admitted: {why}", code="address_not_admitted")


def _parse(text: str) -> Url | None:
    """Parse as browsers do, so that what is checked is what is connected to."""
    if not text or len(text) > _MAX_LENGTH:
        return None
    try:
        parsed = Url(text.strip())
        # A host may decode to something a second parser reads differently; only a fixed point is taken.
        again = Url(str(parsed))
    except PydanticError:
        return None
    usable = parsed.scheme in _WEB and parsed.host and len(str(parsed)) <= _MAX_LENGTH
    return parsed if usable and str(again) == str(parsed) else None
