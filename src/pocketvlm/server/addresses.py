"""The server fetches media only from public network addresses; this module recognizes them."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Public by the tables of `ipaddress`, but they lead inside: clouds answer there, or they carry other addresses.
_INSIDE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15",
        "fd00:ec2::254/128", "64:ff9b:1::/48", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16",
        "fec0::/10", "::/96",
    )
)  # fmt: skip
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an address in text form, of version 4 or 6, is one of the open internet."""
    try:
        address: Address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return False
    if "%" in text:
        return False  # a zone: link-local
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if address in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
    inside = any(address in network for network in _INSIDE if network.version == address.version)
    return address.is_global and not address.is_multicast and not address.is_reserved and not inside


def in_domains(host: str, domains: tuple[str, ...]) -> bool:
    """Whether a host name is one of these domains or below one; every host where there are none."""
    name = host.lower().rstrip(".")
    wanted = [domain.lower().strip().lstrip(".").rstrip(".") for domain in domains]
    return not domains or any(name == domain or name.endswith("." + domain) for domain in wanted)
