"""Which IP addresses belong to the public internet. Owns the list of those that do not; connecting is `outside`.

A list of our own, because `ipaddress.is_global` differs between patch releases of Python and knows nothing of addresses
that carry another one inside. For IPv6 it is the other way round: only what IANA gives out to networks is public.
Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NOT_PUBLIC_4 = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by carriers"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's metadata service"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "reserved for protocols"),
        ("192.52.193.0/24", "reserved for protocols"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved for protocols"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_GLOBAL_6 = IPv6Network("2000::/3")
"""All that IANA has ever given out; loopback, link-local, ULA, mapped, NAT64 and multicast addresses lie outside."""
_NOT_PUBLIC_6 = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("2001::/23", "reserved for protocols"),  # Teredo, ORCHID, benchmarking
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "reserved for protocols"),
        ("3ffe::/16", "reserved"),
        ("3fff::/20", "documentation"),
    )
)
_OUTSIDE_GLOBAL_6 = (
    (IPv6Network("::ffff:0:0/96"), "an IPv4 address inside IPv6"),
    (IPv6Network("::ffff:0:0:0/96"), "an IPv4 address inside IPv6"),
    (IPv6Network("64:ff9b::/96"), "NAT64"),
    (IPv6Network("64:ff9b:1::/48"), "NAT64"),
    (IPv6Network("::/128"), "unspecified"),
    (IPv6Network("::1/128"), "loopback"),
    (IPv6Network("::/96"), "an IPv4 address inside IPv6"),
    (IPv6Network("fc00::/7"), "private"),
    (IPv6Network("fe80::/10"), "link-local"),
    (IPv6Network("fec0::/10"), "site-local"),
    (IPv6Network("ff00::/8"), "multicast"),
)
"""Names for the best-known addresses outside `_GLOBAL_6`, for the message only."""
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
"""The middle of an address by which an IPv6 tunnel reaches the IPv4 address in its last four bytes."""


def why_not_public(address: str) -> str | None:
    """Say in two or three words why an IP address is not on the public internet; `None` if it is.

    An address that carries an IPv4 address inside is never public, whatever that one is: nobody publishes them, and
    what they lead to is up to the nearest router. Raises `ValueError` if `address` is no IP address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return next((what for network, what in _NOT_PUBLIC_4 if parsed in network), None)
    return _why_not_public_6(parsed)


def _why_not_public_6(address: IPv6Address) -> str | None:
    if address.scope_id is not None:
        return "tied to one network card"
    if address not in _GLOBAL_6:
        return next((what for network, what in _OUTSIDE_GLOBAL_6 if address in network), "reserved")
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        return "an IPv4 address inside IPv6"
    return next((what for network, what in _NOT_PUBLIC_6 if address in network), None)
