"""Where the server may be sent to: which URLs and addresses a user can have it call, and which never.

A target is a plain `https://host[:port]/path`. Whatever spells a host in more than one way (numbers in octal or hex,
short forms, a trailing dot, letters beyond ASCII, user names, escapes) is refused, not interpreted. Addresses are
judged by the list here and nothing else: it names every range that is not the public internet.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from registry.domain.errors import InvalidError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL: Final = 2048
PORTS: Final = {"https": 443, "http": 80}

# 0x7f.1, 017700000001, 2130706433 and 127.1 are 127.0.0.1 to many resolvers: a host that ends in a number is an
# address, and only its usual spelling is read.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_URL = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[a-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[a-z0-9._~!$&'()*+,;=:@%/?-]*)?)",
    re.IGNORECASE | re.ASCII,
)


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


NEVER: Final = _networks(
    "0.0.0.0/8",  # this host
    "169.254.0.0/16",  # link-local, and with it the metadata of most clouds
    "168.63.129.16/32",  # the same at Azure
    "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is the metadata of Oracle
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, broadcast
    "::/128",  # this host
    "::ffff:0:0/96",  # IPv4-mapped
    "::ffff:0:0:0/96",  # IPv4-translated
    "64:ff9b::/96",  # NAT64
    "64:ff9b:1::/48",  # local NAT64
    "2001::/32",  # Teredo
    "2002::/16",  # 6to4
    "fe80::/10",  # link-local
    "fec0::/10",  # site-local
    "ff00::/8",  # multicast
    "fd00:ec2::254/128",  # metadata at AWS
)
"""What not even the allow-list's hosts may resolve to; a network in that list says it on purpose."""

SPECIAL: Final = (
    *NEVER,
    *_networks(
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "172.16.0.0/12",  # private
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "::1/128",  # loopback
        "::/96",  # IPv4-compatible
        "100::/64",  # discard
        "2001::/23",  # protocol assignments: benchmarks, ORCHID, …
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # unique local
        # Global unicast is 2000::/3; this is all the rest.
        "::/3",
        "4000::/2",
        "8000::/1",
    ),
)
"""Every range that is not the public internet."""


class TargetRefusedError(InvalidError):
    """The server does not send requests to this URL, or to the addresses its name has."""

    code = "TARGET_REFUSED"
    remedy = (
        "Give https://HOST[:PORT]/PATH of a public address, in plain ASCII; "
        "the operator can allow internal targets with REGISTRY_WEBHOOK_ALLOW."
    )


@dataclass(frozen=True, slots=True)
class Allowed:
    """Internal targets that the operator allows: hosts by name, networks. They may be spoken to without TLS."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str]) -> "Allowed":
        """Read names, addresses and CIDR ranges. Raises ValueError naming the entry that is none."""
        hosts, networks = set(), []
        for entry in entries:
            text = entry.lower().removeprefix("[").removesuffix("]")
            if ":" in text or "/" in text or _NUMBER.fullmatch(text.rpartition(".")[2]):
                networks.append(ip_network(text))
            elif is_name(text):
                hosts.add(text)
            else:
                raise ValueError(f"{entry!r} is neither a host's name nor a network")
        return cls(frozenset(hosts), tuple(networks))

    def covers(self, address: Address) -> bool:
        """Whether a network of the list holds the address."""
        return any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart. `address` is set if the host is one; `path` has the query with it."""

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None

    @property
    def authority(self) -> str:
        """What the `Host` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """The part of the URL that is no secret."""
        return f"{self.scheme}://{self.authority}"


def is_name(host: str, /) -> bool:
    """Whether a lower-case text can be the name of a host."""
    return 0 < len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split("."))


def parse_target(url: str, /) -> Target:
    """Take a URL apart. Raises TargetRefusedError for everything but the one plain spelling."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if found is None:
        raise TargetRefusedError(
            "The URL is not https://HOST[:PORT]/PATH in plain ASCII without user name, escapes in the host or fragment."
        )
    scheme, host = found["scheme"].lower(), found["host"].lower()
    if scheme not in PORTS:
        raise TargetRefusedError(f"The URL's scheme is {scheme}, not https.")
    port = int(found["port"]) if found["port"] else PORTS[scheme]
    if not 0 < port <= 65535:
        raise TargetRefusedError(f"Port {port} does not exist.")
    address = _literal(host)
    path = found["path"] if found["path"].startswith("/") else f"/{found['path']}"
    return Target(scheme, host.strip("[]") if address is None else str(address), port, path, address)


def check_target(target: Target, allowed: Allowed, /) -> None:
    """Check what can be known before a name is resolved. Raises TargetRefusedError."""
    if target.host in allowed.hosts:
        return
    if target.address is not None:
        check_address(target, target.address, allowed)
        return
    if "." not in target.host:
        raise TargetRefusedError(f"{target.host} is not a full name.")
    if not allowed.networks:  # otherwise it depends on the addresses that the name turns out to have
        _check_public(target)


def check_address(target: Target, address: Address, allowed: Allowed, /) -> None:
    """Check an address that the target has. Raises TargetRefusedError, which does not tell it: names are resolved here.

    Networks of the allow-list come first, then its hosts, which may be internal but never what is in `NEVER`.
    """
    if allowed.covers(address):
        return
    by_name = target.host in allowed.hosts
    if _is_in(address, NEVER if by_name else SPECIAL):
        raise TargetRefusedError(f"{target.host} is not a public address.", host=target.host)
    if not by_name:
        _check_public(target)


def _check_public(target: Target) -> None:
    if target.scheme != "https":
        raise TargetRefusedError("Only internal targets that the operator allows may be called without TLS.")
    if target.port < 1024 and target.port not in PORTS.values():
        raise TargetRefusedError(f"Port {target.port} belongs to another kind of service.")


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _literal(host: str) -> Address | None:
    """The address that a host is; None for a name. Raises TargetRefusedError."""
    if host.startswith("[") or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            address = ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise TargetRefusedError(f"{host} is not the usual spelling of an address.") from None
        if (address.version == 6) != host.startswith("["):
            raise TargetRefusedError(f"{host} is not the usual spelling of an address.")
        return address
    if not is_name(host):
        raise TargetRefusedError(f"{host} is not the name of a host.")
    return None
