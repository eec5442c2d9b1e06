"""A real Slurm on this machine, from Debian's packages, without systemd: munge, slurmctld, slurmd, on request slurmdbd.

    python tests/slurm/cluster.py up FOLDER [--accounting]     # as root; installs the packages where they are missing
    snakemake --profile slurm ...
    python tests/slurm/cluster.py down FOLDER

Everything lies in FOLDER (keys, sockets, state, logs); the daemons listen on loopback alone. Jobs lose SLURM_CONF on
their way (Snakemake's job steps strip SLURM_*), so /etc/slurm/slurm.conf becomes a link to FOLDER's until `down`; a file
that another cluster put there is left alone and is an error. `down` ends the processes that `up` started, by pid, no others.
"""

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import psutil
from cluster_settings import (
    ACCOUNT,
    ACCOUNTING,
    CGROUP,
    CPUS,
    GPUS,
    GRES,
    MEMORY_CGROUPS,
    MEMORY_MB,
    NODE,
    QOS,
    SLURM,
    SLURMDBD,
    memory_limits,
)
from machine import SBIN, Unavailable, free_ports, install, wait_for

LINK = Path("/etc/slurm/slurm.conf")


class Cluster:
    """The cluster in `folder`, running or not; `processes.json` there remembers which processes are its own."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.record = self.folder / "processes.json"
        self.environment = {**os.environ, "PATH": SBIN, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self.nodes = [self.node]

    def up(self, accounting=False, min_job_age=3600, nodes=1):
        """Install, configure and start everything; on failure nothing is left running.

        Several nodes are called 127.0.0.1 and so on: jobs on more than one must find each other by their names.
        """
        if nodes > 1:
            self.nodes = [f"127.0.0.{number}" for number in range(1, nodes + 1)]
        install(accounting)
        self._claim_link()
        try:
            self._configure(accounting, min_job_age)
            self._start_munge()
            if accounting:
                self._start_database()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
            wait_for(lambda: self.run("sinfo", "-h", "-p", "cpu", "-t", "idle", "-o", "%D") == str(nodes), "idle nodes")
        except BaseException:
            self.down()
            raise

    def down(self):
        """End every process that this cluster started and take the link away."""
        if "slurmctld" in self.processes():
            with contextlib.suppress(subprocess.SubprocessError, RuntimeError):
                self.run("scancel", "--user=root", check=False)
                wait_for(lambda: not self.run("squeue", "-h", "-o", "%i"), "an empty queue", 20)
        daemons = [name for name in self.processes() if name.startswith("slurmd-")]
        for name in (*daemons, "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self.stop(name)
        if LINK.is_symlink() and Path(os.readlink(LINK)) == self.folder / "slurm.conf":
            LINK.unlink()
        for groups in (MEMORY_CGROUPS / f"slurm_{daemon.removeprefix('slurmd-')}" for daemon in daemons):
            for group in [*sorted(filter(Path.is_dir, groups.rglob("*")), reverse=True), groups]:
                with contextlib.suppress(OSError):
                    group.rmdir()

    def run(self, *command, check=True):
        """Standard output of one of Slurm's commands."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def jobs(self):
        """Every job that the controller remembers, as {field of `scontrol show job`: text}, by id."""
        lines = self.run("scontrol", "show", "jobs", "--oneliner").splitlines()
        found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return {job["JobId"]: job for job in found if "JobId" in job}

    def job(self, number):
        """One job of `jobs`."""
        return self.jobs()[number]

    def start_controller(self):
        self._start("slurmctld", ["slurmctld", "-D"])
        wait_for(lambda: "UP" in self.run("scontrol", "ping", check=False).split(), "slurmctld")

    def start_node(self, node=None):
        """Start slurmd of a node, of the only one if none is named."""
        node = node or self.node
        self._start(f"slurmd-{node}", ["slurmd", "-D", "-N", node])

    def fail_node(self):
        """What a power cut does: slurmd and everything that runs under it are gone at once, and the controller notices.

        It would by itself after SlurmdTimeout (minutes); here it is told. `start_node` brings the node back.
        """
        doomed = self.steps()
        self.stop(f"slurmd-{self.node}", signal.SIGKILL)
        for step in doomed:
            with contextlib.suppress(psutil.Error):
                for process in [step, *step.children(recursive=True)]:
                    process.kill()
        self.run("scontrol", "update", f"NodeName={self.node}", "State=DOWN", "Reason=not responding")

    def steps(self):
        """The slurmstepd processes of the jobs that run now."""
        return [process for process in psutil.process_iter() if self._is_step(process)]

    def stop(self, name, how=signal.SIGTERM):
        """End one daemon by its pid and wait for it."""
        processes = self.processes()
        process = processes.pop(name, None)
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(how)
                try:
                    process.wait(20)
                except psutil.TimeoutExpired:
                    process.kill()
        self._remember(processes)

    def processes(self):
        """{daemon: psutil.Process} of those that run; a pid that now belongs to another program is not among them."""
        if not self.record.exists():
            return {}
        found = {}
        for name, (pid, created) in json.loads(self.record.read_text()).items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                    found[name] = process
        return found

    @property
    def host(self):
        return socket.gethostname().split(".")[0]

    @property
    def node(self):
        """The node's name, no other cluster's on this machine: control groups are called after it."""
        return f"node-{zlib.crc32(str(self.folder).encode()):08x}"

    def _is_step(self, process):
        """Is this a slurmstepd of ours? Each listens on a socket in our spool folder."""
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("slurmstepd"):
                return any(str(c.laddr).startswith(f"{self.folder}/spool/") for c in process.net_connections("unix"))
        return False

    def _remember(self, processes):
        self.record.write_text(json.dumps({name: [p.pid, p.create_time()] for name, p in processes.items() if p.is_running()}))

    def _claim_link(self):
        LINK.parent.mkdir(parents=True, exist_ok=True)
        if LINK.is_symlink() and not Cluster(Path(os.readlink(LINK)).parent).processes():
            LINK.unlink()  # left by a cluster that is gone
        if LINK.is_symlink() or LINK.exists():
            raise Unavailable(f"{LINK} belongs to another Slurm")
        LINK.symlink_to(self.folder / "slurm.conf")

    def _configure(self, accounting, min_job_age):
        for name in ("state", "spool", "mysql"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        controller_port, database_port, self.mysql_port, *ports = free_ports(3 + len(self.nodes))
        self.password = secrets.token_hex(16)
        values = dict(
            vars(self),
            host=self.host,
            controller_port=controller_port,
            database_port=database_port,
            storage=f"accounting_storage/{'slurmdbd' if accounting else 'none'}",
            min_job_age=min_job_age,
            cpus=CPUS,
            memory=MEMORY_MB,
            gpus=GPUS,
            last_gpu=GPUS - 1,
            **memory_limits(),
        )
        each = [values | {"node": node, "port": port} for node, port in zip(self.nodes, ports, strict=True)]
        values["node_lines"] = "".join(NODE.format(**value) for value in each)
        texts = {
            "slurm.conf": SLURM.format(**values) + (ACCOUNTING.format(**values) if accounting else ""),
            "gres.conf": "".join(GRES.format(**value) for value in each),
            "cgroup.conf": CGROUP,
            **({"slurmdbd.conf": SLURMDBD.format(**values)} if accounting else {}),
        }
        for name, text in texts.items():
            (self.folder / name).touch(0o600)
            (self.folder / name).write_text(text)
        for number in range(GPUS):
            device = self.folder / f"gpu{number}"
            if not device.exists():
                try:
                    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
                except PermissionError:
                    raise Unavailable("devices that stand for GPUs cannot be made here (mknod)") from None
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))

    def _start_munge(self):
        places = [f"--{what}={self.folder}/munge.{name}" for what, name in MUNGE_FILES.items()]
        self._start("munged", ["munged", "--foreground", "--force", *places])
        wait_for((self.folder / "munge.socket").exists, "munged")

    def _start_database(self):
        """MariaDB and slurmdbd, with the cluster, an account and a QOS in it."""
        data, mysql_socket = self.folder / "mysql", self.folder / "mysql.socket"
        options = ["--no-defaults", f"--datadir={data}", "--user=root"]
        subprocess.run(["mariadb-install-db", *options], env=self.environment, check=True, capture_output=True)
        network = [f"--socket={mysql_socket}", "--bind-address=127.0.0.1", f"--port={self.mysql_port}", "--skip-name-resolve"]
        self._start("mariadbd", ["mariadbd", *options, *network, f"--pid-file={self.folder}/mariadbd.pid"])
        client = ["mariadb", "--no-defaults", f"--socket={mysql_socket}", "-e"]
        wait_for(lambda: not subprocess.run([*client, "select 1"], capture_output=True).returncode, "mariadbd")
        user = f"grant all on slurm.* to slurm@127.0.0.1 identified by '{self.password}'"
        subprocess.run([*client, user], check=True, capture_output=True)
        self._start("slurmdbd", ["slurmdbd", "-D"])
        wait_for(lambda: self.run("sacctmgr", "-n", "show", "qos", check=False), "slurmdbd")
        self.run("sacctmgr", "-i", "add", "cluster", "test")
        self.run("sacctmgr", "-i", "add", "qos", QOS)
        self.run("sacctmgr", "-i", "add", "account", ACCOUNT, "Cluster=test")
        self.run("sacctmgr", "-i", "modify", "user", "root", "set", "DefaultAccount=root", check=False)
        self.run("sacctmgr", "-i", "add", "user", "root", f"Account={ACCOUNT}", f"QOS=normal,{QOS}", check=False)

    def _start(self, name, command):
        log = (self.folder / f"{name}.out").open("ab")
        started = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=self.folder,
        )
        self._remember({**self.processes(), name: psutil.Process(started.pid)})


MUNGE_FILES = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def main():
    parser = argparse.ArgumentParser(description="A real Slurm on this machine, for tests.")
    parser.add_argument("action", choices=["install", "up", "down"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd")
    arguments = parser.parse_args()
    try:
        if arguments.action == "install":
            return install(arguments.accounting)
        if arguments.folder is None:
            parser.error("up and down need a FOLDER")
        cluster = Cluster(arguments.folder)
        if arguments.action == "up":
            cluster.up(arguments.accounting)
            print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")
        else:
            cluster.down()
    except Unavailable as error:
        sys.exit(f"slurm: {error}")


if __name__ == "__main__":
    main()
