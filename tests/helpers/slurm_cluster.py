"""A SLURM of two nodes on this machine, for as long as a test wants it; everything of it lies in one folder."""

import contextlib
import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time

from processes import GUARD

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
WHERE = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# No cgroups: containers do not have them. Two daemons play two nodes, so that nobody finds these by their names.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=300
MessageTimeout=100
BatchStartTimeout=300
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """The first of SLURM's programs that is not here, or None."""
    return next((name for name in COMMANDS if shutil.which(name, path=WHERE) is None), None)


@contextlib.contextmanager
def cluster(root):
    """Start munge and SLURM, give the environment in which they are found, and stop them with all jobs."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    host = socket.gethostname().partition(".")[0]
    (root / "slurm.conf").write_text(CONFIG.format(host=host, ports=ports, user=getpass.getuser(), root=root))
    (root / "munge.key").write_bytes(os.urandom(128))
    (root / "munge.key").chmod(0o600)
    (root / "state").mkdir()
    environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf"), "PATH": WHERE}
    files = [f"--{name}-file={root}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    daemons = []

    def start(*command):
        with (root / "daemons.log").open("ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "preexec_fn": _die_with_parent}
            daemons.append(subprocess.Popen(command, env=environment, start_new_session=True, **options))

    def ask(*command):
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split()

    try:
        start("munged", "--foreground", "--force", f"--socket={root}/munge.socket", *files)
        _await(lambda: (root / "munge.socket").exists(), root)
        start("slurmctld", "-D")
        for node in ("one", "two"):
            start("slurmd", "-D", "-N", node)
        _await(lambda: ask("sinfo", "--noheader", "--Node", "--format=%T") == ["idle", "idle"], root)
        yield {"SLURM_CONF": environment["SLURM_CONF"], "PATH": WHERE, "MASTER_ADDR": "127.0.0.1"}
        ask("scancel", "--me")
        _await(lambda: not ask("squeue", "--noheader", "--format=%i"), root)
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _await(condition, root):
    deadline = time.monotonic() + GUARD
    while not condition():
        logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in root.glob("*.log"))
        assert time.monotonic() < deadline, logs
        time.sleep(0.2)
