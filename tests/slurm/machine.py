"""What the cluster needs of its machine: Debian's packages, free ports, and patience."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge"}
ACCOUNTING_PACKAGES = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server"}
SBIN = f"/usr/sbin:/sbin:{os.environ.get('PATH', '/usr/bin:/bin')}"


class Unavailable(Exception):
    """Slurm cannot be run here; the text is the reason."""


def install(accounting=False):
    """Install what is missing with apt; Unavailable says why that cannot be done."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unavailable("a Slurm of our own needs Linux and root")
    wanted = {**PACKAGES, **(ACCOUNTING_PACKAGES if accounting else {})}
    missing = sorted({package for program, package in wanted.items() if not shutil.which(program, path=SBIN)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Unavailable(f"no {', '.join(missing)} here, and no apt-get to install it")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Debian's packages start their daemons, on all addresses, unless this file says no.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for arguments in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *missing]):
            done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"apt-get could not install {', '.join(missing)}: {done.stderr.strip().splitlines()[-1:]}")
    finally:
        if ours:
            policy.unlink()


def free_ports(count):
    """Ports of the loopback address that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(condition, what, seconds=60):
    """Wait until `condition()` is true and return its value; RuntimeError after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    raise RuntimeError(f"{what}: not after {seconds} s")
