"""Configuration files of the one-machine cluster that cluster.py brings up.

Nodes (one, unless more are asked for) that declare more processors and memory than the machine has, as the tests' jobs ask for
a real model's memory, with GPUs that are character devices under other names. Three partitions: `cpu` (default), `gpu`, and
`urgent`, whose jobs take the place of the others', which are requeued.
"""

import os
from pathlib import Path

CPUS, MEMORY_MB, GPUS = 16, 400_000, 2
ACCOUNT, QOS = "lab", "long"

# The kernel's own out-of-memory killer where its control groups can be written; else slurmd watches and kills.
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
BY_KERNEL = {"task_plugin": "task/cgroup", "gather": "NoOverMemoryKill"}
BY_WATCHING = {"task_plugin": "task/none", "gather": "OverMemoryKill"}
CGROUP = "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n"


def memory_limits():
    """The settings that hold jobs to the memory that they asked for."""
    return BY_KERNEL if os.access(MEMORY_CGROUPS / "cgroup.procs", os.W_OK) else BY_WATCHING


# KillWait, cred_expire (how long a requeued job waits) and the intervals are shorter than a site's, so that faults pass
# quickly; MinJobAge keeps finished jobs in sight of `squeue --states=all`.
SLURM = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin={task_plugin}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams={gather}
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge={min_job_age}
KillWait=3
PropagateResourceLimits=NONE
GresTypes=gpu
AccountingStorageType={storage}
{node_lines}PartitionName=cpu Nodes=ALL Default=YES State=UP PriorityTier=1
PartitionName=gpu Nodes=ALL State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""

NODE = """\
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
"""

ACCOUNTING = """\
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database_port}
AccountingStoragePass={folder}/munge.socket
AccountingStoreFlags=job_comment
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
"""

GRES = "NodeName={node} Name=gpu File={folder}/gpu[0-{last_gpu}]\n"

SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdAddr=127.0.0.1
DbdHost={host}
DbdPort={database_port}
CommunicationParameters=NoInAddrAny
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mysql_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""
