"""The daemons of SLURM on this machine alone, in a folder of their own, while a test runs."""
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time

NEEDED = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'squeue', 'scontrol', 'scancel')
# One node of two cores, whatever the machine has; nothing of the system's own configuration.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=20
SchedulerParameters=sched_interval=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 MaxTime=INFINITE State=UP
"""


def missing():
  """Returns why the daemons cannot run here, '' if they can."""
  if os.geteuid():
    return "SLURM's daemons start tasks of any user: they run as root alone"
  lost = [name for name in NEEDED if shutil.which(name, path=search_path()) is None]
  return f'{", ".join(lost)} not found: apt-get install slurm-wlm munge' if lost else ''


def search_path():
  """Returns PATH with the folders of daemons."""
  return f'{os.environ["PATH"]}:/usr/sbin:/sbin'


@contextlib.contextmanager
def running(folder):
  """Starts munged, slurmctld and slurmd in a folder; yields the environment of their commands."""
  for name in ('state', 'spool'):
    (folder / name).mkdir()
  key = folder / 'munge.key'
  key.write_bytes(secrets.token_bytes(64))
  key.chmod(0o600)
  ports = [free_port() for _ in range(2)]
  host = socket.gethostname().partition('.')[0]
  (folder / 'slurm.conf').write_text(CONFIG.format(
      folder=folder, host=host, control_port=ports[0], node_port=ports[1]))
  environment = {**os.environ, 'PATH': search_path(), 'SLURM_CONF': str(folder / 'slurm.conf')}
  commands = (
      ['munged', '--foreground', '--force', f'--socket={folder}/munge.socket', f'--key-file={key}',
       f'--pid-file={folder}/munged.pid', f'--log-file={folder}/munged.log',
       f'--seed-file={folder}/munged.seed'],
      ['slurmctld', '-D', '-f', f'{folder}/slurm.conf'],
      ['slurmd', '-D', '-f', f'{folder}/slurm.conf', '-N', host])
  with contextlib.ExitStack() as stack:
    for command in commands:
      log = stack.enter_context((folder / f'{command[0]}.output').open('wb'))
      process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
      stack.callback(end, process)
      if command[0] == 'munged':
        wait_until(lambda: (folder / 'munge.socket').exists(), 20, folder)
    wait_until(lambda: 'idle' in told(environment, 'sinfo', '-h', '-p', 'all', '-o', '%T'), 60,
               folder)
    yield environment


def end(process):
  """Ends a daemon, and waits for it."""
  process.terminate()
  try:
    process.wait(20)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()


def told(environment, *command):
  """Returns what a command prints on standard output; its failures are part of the answer."""
  return subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT, check=False).stdout


def wait_until(true, seconds, folder, logs=None):
  """Waits until true() holds; else fails, with what the daemons said, and the tasks in `logs`."""
  end_of_time = time.monotonic() + seconds
  while not true():
    if time.monotonic() > end_of_time:
      said = [f'{path.name}:\n{path.read_text(errors="replace")[-2000:]}'
              for path in sorted([*folder.glob('*.output'), *(logs or folder).glob('*/*.out')])]
      raise AssertionError(f'not within {seconds} s\n' + '\n'.join(said))
    time.sleep(0.2)


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]
