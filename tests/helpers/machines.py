"""Machines of a small cluster on one Linux machine, each with its own root file system, processes, name and address.

A machine is a network namespace on a bridge, with an overlay of this machine's file system as its root (nothing that it
writes is seen outside) and its own process numbers. It runs sshd; a user ``ubuntu`` may run ``docker``, which is podman
with a store of its own and this machine's images. Needs root, iproute2, openssh-server, sudo and podman.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.helpers import network

NEEDED = ("ip", "sshd", "ssh", "rsync", "sudo", "podman", "unshare", "pivot_root")
"""Programs that this module runs."""
BRIDGE, BRIDGE_MAC, NET = "s2vup", "02:53:32:56:01:fe", "10.78.0"
STORE = Path("/var/lib/containers/storage")
"""Where podman keeps this machine's images."""
USER, USER_ID = "ubuntu", 1000
ENVIRONMENT = {"HOME": f"/home/{USER}", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}

SETUP = r"""
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/up,workdir=$DIR/work" "$DIR/root"
cd "$DIR/root"
mkdir -p old_root var/lib/containers/storage var/lib/images run/sshd tmp
for place in dev sys; do mount --rbind "/$place" "$place"; done
mount -t proc proc proc
mount -t tmpfs tmpfs run && mkdir -p run/sshd
mount -t tmpfs tmpfs tmp -o mode=1777
mount --bind "$DIR/storage" var/lib/containers/storage
mount --rbind "$STORE" var/lib/images
for place in $SHARED; do mkdir -p ".$place"; mount --rbind "$place" ".$place"; done
pivot_root . old_root && umount -l /old_root
cd / && hostname "$NAME"
printf '%s\n' "127.0.0.1 localhost" "$ADDRESS $NAME" >/etc/hosts
sed -i "/^[^:]*:[^:]*:$USER_ID:/d" /etc/passwd
useradd --uid "$USER_ID" --create-home --shell /bin/bash --password '*' "$USER"
printf '%s\n' "$USER ALL=(root) NOPASSWD: $PODMAN" >/etc/sudoers.d/docker
cat >/usr/local/bin/docker <<C
#!/bin/sh
# podman as docker: it lacks a field of docker's, and it cannot exceed the limits of this machine
[ "\$*" != "info -f {{.Runtimes}}" ] || exec echo "map[runc:]"
for word; do
    shift
    case "\$word" in nofile=*) word=nofile=$FILES:$FILES ;; esac
    set -- "\$@" "\$word"
done
[ "\$1" != run ] || { shift && set -- run --ulimit nproc=16384:16384 "\$@"; }
exec sudo -n $PODMAN "\$@"
C
chmod 755 /usr/local/bin/docker
mkdir -p "/home/$USER/.ssh" /etc/containers && printf '%s\n' "$PUBLIC_KEY" >"/home/$USER/.ssh/authorized_keys"
chown -R "$USER:" "/home/$USER" && chmod 700 "/home/$USER/.ssh" && chmod 600 "/home/$USER/.ssh/authorized_keys"
cat >/etc/containers/storage.conf <<C
[storage]
driver = "overlay"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
[storage.options]
additionalimagestores = ["/var/lib/images"]
C
cat >/etc/containers/containers.conf <<C
[containers]
default_ulimits = ["nofile=$FILES:$FILES", "nproc=16384:16384"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
C
ssh-keygen -A >/dev/null
cat >/etc/ssh/sshd_config <<C
UsePAM no
PasswordAuthentication no
MaxSessions 100
MaxStartups 100:30:200
C
exec /usr/sbin/sshd -D -e
"""


class MachineError(RuntimeError):
    """This machine cannot provide others, or one of them did not start; the message says why."""


def missing() -> str:
    """What this machine lacks to provide others; "" if nothing."""
    if os.geteuid() != 0:
        return "root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if lacking:
        return ", ".join(lacking)
    probe = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount", "true"], capture_output=True)
    return "namespaces" if probe.returncode else ""


class Machine:
    """One machine; ``Machines`` makes it."""

    def __init__(self, machines: Machines, name: str, number: int) -> None:
        self.machines, self.name, self.number = machines, name, number
        self.address = f"{NET}.{number}"
        self.namespace, self.link = f"s2vup-{name}", f"s2vup{number}"
        self.folder = machines.folder / name
        self.process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        for part in ("up", "work", "root", "storage"):
            (self.folder / part).mkdir(parents=True)
        network.plug(self.namespace, self.link, BRIDGE, f"{self.address}/24")
        own = {
            "DIR": str(self.folder),
            "NAME": self.name,
            "ADDRESS": self.address,
            "SHARED": " ".join(self.machines.shared),
            "STORE": str(STORE),
            "PUBLIC_KEY": self.machines.key.with_suffix(".pub").read_text().strip(),
            "USER": USER,
            "USER_ID": str(USER_ID),
            "PODMAN": shutil.which("podman") or "",
            "FILES": str(min(65536, _hard_limit_of_files())),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        line = [
            "nsenter",
            f"--net=/run/netns/{self.namespace}",
            "unshare",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
        ]
        with (self.folder / "machine.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*line, "--kill-child", "sh", "-c", SETUP], env=own, stdout=log, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + 30
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError), socket.create_connection((self.address, 22), timeout=1):
                return
            time.sleep(0.2)
        raise MachineError(f"{self.name} does not start: {(self.folder / 'machine.log').read_text()[-2000:]}")

    def run(
        self, command: list[str], user: str = USER, check: bool = False, timeout: float = 120, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the machine; gives its output."""
        line = self._line(command, user)
        return subprocess.run(
            line, env=ENVIRONMENT, capture_output=True, text=True, check=check, timeout=timeout, input=input
        )

    def start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Starts a command as root in a process group of its own, without waiting."""
        with log.open("ab") as out:
            line = self._line(command, "root")
            return subprocess.Popen(
                line,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _line(self, command: list[str], user: str) -> list[str]:
        return ["nsenter", "--all", "--target", str(self._init()), "runuser", "-u", user, "--", *command]

    def processes(self) -> list[str]:
        """Command lines of what runs on the machine, without sshd."""
        lines = self.run(["ps", "-eo", "pid=,args="], user="root").stdout.splitlines()
        commands = [line.split(None, 1)[1] for line in lines]
        return [c for c in commands if not c.startswith(("sshd", "/usr/sbin/sshd", "ps -eo", "runuser", "sh -c"))]

    def containers(self) -> list[str]:
        return self.run(["docker", "ps", "--all", "--format", "{{.Names}}"]).stdout.split()

    def stop(self) -> None:
        if self.process is not None:
            with suppress(OSError):
                os.kill(self._init(), signal.SIGKILL)  # and with it all processes of the machine
            self.process.wait()
        network.unplug(self.namespace, self.link)

    def _init(self) -> int:
        """Number, on this machine, of the first process of the other: the only child of unshare."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            raise ProcessLookupError(self.name)
        return int(children[0])


class Machines:
    """Machines with addresses in 10.78.0.0/24, reachable from each other and from here. A context, which stops them.

    Args:
        names: host names.
        shared: folders of this machine that all of them see, such as a virtual environment.
    """

    def __init__(self, names: list[str], shared: list[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="s2v-machines-"))
        self.key = self.folder / "key"
        self.shared = shared
        self.gateway = f"{NET}.254"
        self.machines = {name: Machine(self, name, number) for number, name in enumerate(names, 1)}

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def __enter__(self) -> Machines:
        try:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
            network.add_bridge(BRIDGE, BRIDGE_MAC, f"{self.gateway}/24")
            for machine in self.machines.values():
                machine.boot()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for machine in self.machines.values():
            machine.stop()
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _hard_limit_of_files() -> int:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard if hard != resource.RLIM_INFINITY else 65536
