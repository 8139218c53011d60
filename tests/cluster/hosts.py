"""Several hosts on this one Linux machine, real enough for `ray up`: networks and processes apart.

Each host has its own network address, process ids, host name, home, /tmp and /dev/shm, and an sshd.
They share the machine's file system otherwise, so the interpreter and this checkout are the same on
all of them. Names and addresses are chosen anew each time: several checkouts can do this at once.

A guardian process takes everything away when this one ends, however it ends.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SSHD = "/usr/sbin/sshd"
_PATIENCE = 30.0  # s

# What becomes a host: `$1` its directory, the rest what is shared with the others.
_HOST = r"""
set -e
directory=$1; name=$2; shift 2
hostname "$name"
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount --bind "$directory/passwd" /etc/passwd
for shared in "$@"; do
    case $shared in /tmp/*)
        mkdir -p "$directory/tmp/${shared#/tmp/}"
        mount --bind "$shared" "$directory/tmp/${shared#/tmp/}" ;;
    esac
done
mount --rbind "$directory/tmp" /tmp
mkdir -p /run/sshd
cd /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/sbin/sshd -D -e -f /dev/null -h "$directory/../hostkey" -o PidFile=none -o UsePAM=no \
    -o StrictModes=no -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no \
    -o Subsystem="sftp internal-sftp" -o MaxStartups=100 -o MaxSessions=100 \
    -o AuthorizedKeysFile="$directory/../id.pub"
"""

# Waits until whoever started it is gone, then takes everything away that bears the tag.
_GUARDIAN = r"""
trap '' INT TERM HUP
tag=$1; directory=$2
cat >/dev/null
for name in $(ip netns list | awk '{print $1}' | grep "^$tag-"); do
    for _ in 1 2 3 4 5; do
        left=$(ip netns pids "$name" 2>/dev/null)
        [ -n "$left" ] || break
        kill -9 $left 2>/dev/null
        sleep 0.2
    done
    ip netns del "$name"
done
ip link show "$tag" >/dev/null 2>&1 && ip link del "$tag"
[ -n "$FMLP_KEEP_HOSTS" ] || rm -rf "$directory"
"""


def missing() -> str | None:
    """Why hosts can't be made here, in one line; `None` where they can."""
    if not sys.platform.startswith("linux"):
        return "pseudo-hosts need Linux's namespaces"
    if os.geteuid() != 0:
        return "pseudo-hosts need root, for network namespaces"
    for program in ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync", SSHD):
        if shutil.which(program) is None:
            return f"pseudo-hosts need {program} (iproute2, util-linux, openssh-server, rsync)"
    name = f"fmlp-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"network namespaces can't be made here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    inside = subprocess.run(
        ["unshare", "--mount", "--uts", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
    )
    if inside.returncode != 0:
        return f"mounts can't be made in a namespace here: {inside.stderr.strip()}"
    return None


@dataclass
class Host:
    """One host. `ssh` reaches it at `address`; `run` and `start` act on it directly."""

    name: str
    address: str
    directory: Path
    namespace: str
    device: str  # its end of the cable at the switch
    shared: list[Path]
    _init: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Its home directory, as seen from outside and inside alike."""
        return self.directory / "home"

    @property
    def tmp(self) -> Path:
        """What it has in /tmp, as seen from outside."""
        return self.directory / "tmp"

    def power_on(self) -> None:
        """Boot it: its disk is as it was, its processes are new."""
        assert self._init is None
        _ip("link", "set", self.device, "up")
        log = (self.directory / "sshd.log").open("ab")
        words = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "--pid"]
        words += ["--fork", "--kill-child", "bash", "-c", _HOST, "host", str(self.directory)]
        with log:
            self._init = subprocess.Popen(
                [*words, self.name, *map(str, self.shared)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if b"Server listening" in (self.directory / "sshd.log").read_bytes():
                return
            assert self._init.poll() is None, (self.directory / "sshd.log").read_text()
            time.sleep(0.05)
        raise AssertionError(f"{self.name} doesn't boot")

    def power_off(self) -> None:
        """Pull its plug: nobody is told, not even by a closed connection."""
        self.cut_off()
        assert self._init is not None
        subprocess.run(["kill", "-9", *self.processes()], check=False)
        self._init.wait(_PATIENCE)
        self._init = None
        (self.directory / "sshd.log").unlink()

    def cut_off(self) -> None:
        """Pull its cable."""
        _ip("link", "set", self.device, "down")

    def mend(self) -> None:
        """Put its cable back."""
        _ip("link", "set", self.device, "up")

    def processes(self) -> list[str]:
        """Ids, as this machine counts them, of all that runs on the host."""
        return subprocess.run(
            ["ip", "netns", "pids", self.namespace], check=True, capture_output=True, text=True
        ).stdout.split()

    def command_lines(self) -> list[str]:
        """Of all that runs on the host, sshd included."""
        found = []
        for pid in self.processes():
            try:
                content = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            found.append(content.replace(b"\0", b" ").decode(errors="replace").strip())
        return found

    def words(self, command: str, **environment: str) -> list[str]:
        """What runs a shell command on the host, from here, with a log-in's environment."""
        assert self._init is not None
        (inner,) = _children(self._init.pid)
        every = {"HOME": str(self.home), "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb"}
        every |= {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        every |= self.environment | environment
        pairs = [f"{name}={value}" for name, value in every.items()]
        enter = ["nsenter", "--target", inner, "--net", "--mount", "--pid", "--uts"]
        script = f"[ ! -e ~/.bashrc ] || . ~/.bashrc; cd; {command}"
        return [*enter, "--", "env", "-i", *pairs, "bash", "-c", script]

    def run(
        self, command: str, *, check: bool = True, patience: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host to its end."""
        done = subprocess.run(
            self.words(command, **environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"on {self.name}: {command}\nexit status {done.returncode}\n{done.stdout[-4000:]}\n"
                f"{done.stderr[-4000:]}"
            )
        return done


class Hosts:
    """A switch with hosts on it; use as a context."""

    def __init__(self, *names: str) -> None:
        self.tag = f"fm{secrets.token_hex(3)}"
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.tag}-", dir="/tmp"))
        self.shared = self.directory / "shared"
        self.key = self.directory / "id"
        self._names = names
        self._hosts: dict[str, Host] = {}
        self._guardian = subprocess.Popen(
            ["bash", "-c", _GUARDIAN, "guardian", self.tag, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> object:
        return iter(self._hosts.values())

    def __enter__(self) -> Hosts:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()
        self._guardian.wait(60)

    def _make(self) -> None:
        self.shared.mkdir()
        for name in ("id", "hostkey"):
            words = [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                str(self.directory / name),
            ]
            subprocess.run(words, check=True)
        subnet = _free_subnet()
        _ip("link", "add", self.tag, "type", "bridge")
        _ip("addr", "add", f"{subnet}.1/24", "dev", self.tag)
        _ip("link", "set", self.tag, "up")
        passwd = Path("/etc/passwd").read_text().splitlines(keepends=True)
        for number, name in enumerate(self._names, 2):
            directory = self.directory / name
            for part in ("home", "tmp"):
                (directory / part).mkdir(parents=True)
            (directory / "tmp").chmod(0o1777)
            lines = [
                f"root:x:0:0:root:{directory / 'home'}:/bin/bash\n" if line[:5] == "root:" else line
                for line in passwd
            ]
            (directory / "passwd").write_text("".join(lines))
            namespace, device = f"{self.tag}-{name}", f"{self.tag}-{number}"
            _ip("netns", "add", namespace)
            _ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("link", "set", device, "master", self.tag, "up")
            address = f"{subnet}.{number}"
            _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip("-n", namespace, "route", "add", "default", "via", f"{subnet}.1")
            shared = [ROOT, self.directory, Path(sys.base_prefix)]
            host = Host(name, address, directory, namespace, device, shared)
            self._hosts[name] = host
            host.power_on()


def _free_subnet() -> str:
    """The first three numbers of a private network that this machine has no part in."""
    taken = subprocess.run(
        ["ip", "-4", "-o", "addr"], check=True, capture_output=True, text=True
    ).stdout
    while True:
        subnet = f"10.{77 + secrets.randbelow(100)}.{secrets.randbelow(250)}"
        if f" {subnet}." not in taken:
            return subnet


def _children(pid: int) -> list[str]:
    """Ids of the children of unshare: the host's first process."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("the host has no process")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{shlex.join(['ip', *words])}: {done.stderr.strip()}")
