"""Network namespaces on a bridge: addresses of several hosts on one Linux machine. Needs root and iproute2."""

from __future__ import annotations

import subprocess


class NetworkError(RuntimeError):
    """A command of ``ip`` failed; the message has its reason."""


def ip(*words: str) -> None:
    """Run a command of iproute2."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise NetworkError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def add_bridge(name: str, mac: str, address: str) -> None:
    """Add a bridge with an address of this machine.

    Args:
        name: of the bridge.
        mac: by default it is the smallest of its ports', which changes with the hosts and loses packets.
        address: of this machine, with the length of the prefix.
    """
    ip("link", "add", name, "address", mac, "type", "bridge")
    ip("addr", "add", address, "dev", name)
    ip("link", "set", name, "up")


def plug(namespace: str, link: str, bridge: str, address: str) -> None:
    """Add a namespace that is connected to a bridge.

    Args:
        namespace: its name.
        link: name of the end of its cable that is plugged into the bridge.
        bridge: name of the bridge.
        address: of the namespace, with the length of the prefix.
    """
    inner = f"{link}i"
    ip("netns", "add", namespace)
    ip("link", "add", link, "type", "veth", "peer", "name", inner)
    ip("link", "set", inner, "netns", namespace)
    ip("link", "set", link, "master", bridge)
    ip("link", "set", link, "up")
    ip("-n", namespace, "addr", "add", address, "dev", inner)
    ip("-n", namespace, "link", "set", inner, "up")
    ip("-n", namespace, "link", "set", "lo", "up")


def unplug(namespace: str, link: str) -> None:
    """Remove a namespace and its cable, if they are there."""
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)
    subprocess.run(["ip", "link", "del", link], capture_output=True)
