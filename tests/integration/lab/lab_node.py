# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One node: an overlay over a root, namespaces of its own, and an sshd that leads into it.

A node is held by a process of ours, its *holder*: the first process of the node's own
process, host name and mount namespaces (and network namespace, for a slow node). When the
holder dies, the kernel ends everything that runs on the node. The node's file system is
mounted on the controller's side, so tests can look at it without ssh.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import lab_system as system
from lab_roots import remove_tree
from lab_system import LabError, run, wait_until

MACHINES = {'amd64': 'x86_64', 'arm64': 'aarch64', 'armhf': 'armv7l', 'busybox': 'x86_64', 'rpm': 'x86_64',
            'slow': 'x86_64'}
ARCHES = {'x86_64': 'amd64', 'aarch64': 'arm64', 'armv7l': 'arm'}
ROOTS = {kind: 'amd64' if kind == 'slow' else kind for kind in MACHINES}
HOST_KEY_OPTIONS = ('-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null')

SSHD_CONFIG = """\
ListenAddress {address}
HostKey {directory}/host_key
PidFile {directory}/sshd.pid
AuthorizedKeysFile {home}/authorized_keys
ChrootDirectory {root}
Subsystem sftp internal-sftp
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication yes
KbdInteractiveAuthentication no
MaxStartups 1000
MaxSessions 1000
UseDNS no
PrintMotd no
PrintLastLog no
AcceptEnv LANG LC_*
"""


class Node:
    """A node of the lab.

    name, kind           what it is called, and the kind it was ordered as (`amd64`, `slow`, ...)
    machine, arch        what `uname -m` says there, and K3s's name for it (`aarch64`, `arm64`)
    host, port, user     where ssh finds it, and as whom it logs in by default (`root`)
    key_file             the private key that every user of the node accepts
    root                 the controller's directory in which the node's file system is visible
    python               whether there is a Python on it
    """

    def __init__(self, directory, name, kind, lower, host, port, rate=None):
        self.directory = Path(directory)
        self.name = name
        self.kind = kind
        self.lower = Path(lower)
        self.host = host
        self.port = port
        self.rate = rate
        self.machine = MACHINES[kind]
        self.arch = ARCHES[self.machine]
        self.python = kind != 'busybox'
        self.user = 'root'
        self.root = self.directory / 'root'
        self.key_file = self.directory.parents[1] / 'key'

    def __repr__(self):
        return f'<Node {self.name} {self.machine} {self.host}:{self.port}>'

    def as_dict(self):
        """The constructor's arguments, as plain values for lab.json."""
        return {'directory': str(self.directory), 'name': self.name, 'kind': self.kind, 'lower': str(self.lower),
                'host': self.host, 'port': self.port, 'rate': self.rate}

    # Files and commands

    def path(self, path):
        """The controller's path of a path on the node, given as absolute.

        Symbolic links in the directories are followed as the node would follow them;
        a link in the last place is not.
        """
        here = self.root
        parts = list(Path(path).parts[1:])
        for _attempt in range(100):
            if not parts:
                return here
            part = parts.pop(0)
            if part == '..':
                here = here.parent if here != self.root else here
                continue
            step = here / part
            if parts and step.is_symlink():
                target = Path(os.readlink(step))
                here = self.root if target.is_absolute() else here
                parts = list(target.parts[1:] if target.is_absolute() else target.parts) + parts
            else:
                here = step
        raise LabError(f'The path {path} of node {self.name} leads through too many links.')

    def ssh(self, user=None):
        """The ssh command line up to the command to run, as a list."""
        return ['ssh', '-F', 'none', *HOST_KEY_OPTIONS, '-o', 'LogLevel=ERROR', '-o', 'BatchMode=yes',
                '-i', str(self.key_file), '-p', str(self.port), f'{user or self.user}@{self.host}']

    def run(self, command, user=None, data=None, check=True, timeout=120):
        """Runs a shell command over ssh; returns its CompletedProcess with text output.

        `data` is its standard input. A status other than 0 raises LabError unless
        `check` is false.
        """
        done = subprocess.run([*self.ssh(user), command], input=data or '', capture_output=True, text=True,
                              timeout=timeout, check=False)
        if check and done.returncode:
            raise LabError(f'`{command}` on node {self.name} failed with status {done.returncode}: '
                           f'{done.stderr.strip() or done.stdout.strip()}')
        return done

    # Life

    def start(self):
        """Makes the node from nothing: files, namespaces, mounts, network, sshd."""
        self.directory.mkdir(mode=0o755, parents=True)
        self.root.mkdir(mode=0o755)
        run('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', self.directory / 'host_key')
        address = f'{self.host}:{self.port}'
        config = SSHD_CONFIG.format(address=address, directory=self.directory,
                                    home=self.directory.parents[1], root=self.root)
        (self.directory / 'sshd_config').write_text(config, encoding='utf-8')
        self._start_holder()
        if self.rate:
            self._connect()
        self._mount()
        self.start_sshd()

    def stop(self):
        """Ends everything that runs on the node and removes it."""
        end_holders(self.directory)
        remove_tree(self.directory)

    def reset(self):
        """Makes the node as new: ends its processes and sessions, drops faults and files, sshd up."""
        listener = self._listener()
        system.kill([pid for pid in self.processes() if pid != listener])
        system.unmount_all(self.root)
        worn = self.directory / 'layer.worn'
        (self.directory / 'layer').rename(worn)
        self._mount()
        remove_tree(worn)
        if self.rate:
            self.throttle(self.rate)
        self.start_sshd()

    def processes(self):
        """The ids of the node's processes (sshd among them), as the controller counts them."""
        holder = self._holder()
        space = system.namespace(holder, 'pid') if holder else None
        return [pid for pid in system.process_ids() if space and pid != holder
                and system.namespace(pid, 'pid') == space]

    def _mount(self):
        """Mounts a fresh overlay with what a running system has besides."""
        layer = self.directory / 'layer'
        for part in ('upper', 'work'):
            (layer / part).mkdir(mode=0o755, parents=True)
        system.mount('overlay', self.root, kind='overlay',
                     options=f'lowerdir={self.lower},upperdir={layer / "upper"},workdir={layer / "work"}')
        run(*self._inside('pid'), 'mount', '-t', 'proc', 'proc', self.root / 'proc')
        system.mount('/dev/pts', self.root / 'dev/pts', bind=True)
        (self.root / 'etc/hostname').write_text(f'{self.name}\n', encoding='ascii')
        (self.root / 'etc/hosts').write_text(f'127.0.0.1 localhost\n127.0.1.1 {self.name}\n', encoding='ascii')

    # sshd

    def start_sshd(self):
        """Starts the node's sshd, unless it runs."""
        if not self._listener():
            run(*self._inside('pid', 'mount', 'uts', 'net'), shutil.which('sshd') or '/usr/sbin/sshd',
                '-f', self.directory / 'sshd_config', '-E', self.directory / 'sshd.log')
        wait_until(self._answers, 10, f'The sshd of node {self.name} does not answer on {self.host}:{self.port}; '
                                      f'see {self.directory}/sshd.log.')

    def stop_sshd(self):
        """Ends the node's listening sshd: new connections are refused, running sessions go on."""
        listener = self._listener()
        if listener:
            system.kill([listener])
        (self.directory / 'sshd.pid').unlink(missing_ok=True)

    def restart_sshd(self):
        """Stops and starts sshd, as an upgrade of its package would."""
        self.stop_sshd()
        self.start_sshd()

    def kill_connections(self):
        """Cuts every ssh session of this node, and says how many processes served them."""
        listener = self._listener()
        pids = [pid for pid in self.processes() if pid != listener and system.process_name(pid).startswith('sshd')]
        system.kill(pids)
        return len(pids)

    def _listener(self):
        """The id of the listening sshd, or None: the one whose parent is the holder."""
        holder = self._holder()
        for pid in self.processes():
            words = ' '.join(system.command_line(pid))
            if system.parent(pid) == holder and 'sshd' in words and '[listener]' in words:
                return pid
        return None

    def _answers(self):
        """Whether something listens where the node's sshd should."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as line:
                return line.recv(4) == b'SSH-'
        except OSError:
            return False

    # Faults; reset() takes all of them back

    def mount_tmpfs(self, path, size='4m', options=''):
        """Mounts an empty tmpfs of this size on a directory of the node (made if missing)."""
        target = self.path(path)
        target.mkdir(parents=True, exist_ok=True)
        system.mount('tmpfs', target, kind='tmpfs', options=f'size={size},mode=755{"," + options if options else ""}')
        return target

    def remount(self, path, options):
        """Gives a directory of the node mount options such as `ro`, `noexec` or `rw,exec`."""
        target = self.path(path)
        if target not in system.mounts(target):
            system.mount(target, target, bind=True)
        command = ('mount', '-o', f'remount,bind,{options}', target)
        run(*command)
        run(*self._inside('mount'), *command)

    def read_only(self, path):
        """Makes a directory of the node read-only."""
        self.remount(path, 'ro')

    def no_exec(self, path):
        """Makes a directory of the node refuse to run programs."""
        self.remount(path, 'noexec')

    def fill(self, path, leave=0):
        """Fills the small file system mounted on a directory of the node up to `leave` free bytes.

        Only what `mount_tmpfs` mounted can be filled, never the controller's own disk.
        """
        target = self.path(path)
        if os.stat(target).st_dev == os.stat(self.root).st_dev:
            raise LabError(f'{path} of node {self.name} is not a file system of its own; use mount_tmpfs first.')
        space = os.statvfs(target)
        length = space.f_bfree * space.f_frsize - leave
        with open(target / 'filler', 'wb') as filler:
            if length > 0:
                os.posix_fallocate(filler.fileno(), 0, length)

    def immutable(self, path, on=True):
        """Makes a file or directory of the node immutable, even for root, or mutable again."""
        run('chattr', '+i' if on else '-i', self.path(path))

    def unmount(self, path):
        """Takes away what is mounted at or below a directory of the node."""
        system.unmount_all(self.path(path))

    # Network of a slow node

    @property
    def interface(self):
        """The controller's end of a slow node's link."""
        return f'k3slab{self.host.split(".")[2]}'

    def throttle(self, rate):
        """Sets the rate of a slow node's link in both directions, in tc's words (`20mbit`)."""
        if not self.rate:
            raise LabError(f'Node {self.name} is reached over loopback; only a node of kind slow has a rate.')
        shape = ('root', 'tbf', 'rate', rate, 'burst', '32kb', 'latency', '200ms')
        run('tc', 'qdisc', 'replace', 'dev', self.interface, *shape)
        run(*self._inside('net'), 'tc', 'qdisc', 'replace', 'dev', 'eth0', *shape)

    def _connect(self):
        """Gives the node's network namespace a link to the controller."""
        inside = self._inside('net')
        run('ip', 'link', 'add', self.interface, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', str(self._holder()))
        run('ip', 'address', 'add', f'{self.host.rpartition(".")[0]}.1/30', 'dev', self.interface)
        run('ip', 'link', 'set', self.interface, 'up')
        run(*inside, 'ip', 'address', 'add', f'{self.host}/30', 'dev', 'eth0')
        for device in ('lo', 'eth0'):
            run(*inside, 'ip', 'link', 'set', device, 'up')
        self.throttle(self.rate)

    # Namespaces

    def _holder(self):
        """The id of the node's holder, or None."""
        return next(iter(holders(self.directory)), None)

    def _inside(self, *kinds):
        """The command that runs another one in some of the node's namespaces, as a list."""
        holder = self._holder()
        if not holder:
            raise LabError(f'Node {self.name} is not up.')
        return ['nsenter', '--target', str(holder), *(f'--{kind}' for kind in kinds), '--']

    def _start_holder(self):
        """Starts the process that holds the node's namespaces, and waits until they are ready."""
        argv = ['unshare', '--fork', '--kill-child', '--pid', '--uts', '--mount', '--propagation', 'slave']
        if self.rate:
            argv.append('--net')
        argv += ['--', *holder_command(self.directory)]
        with open(self.directory / 'holder.log', 'wb') as log:
            holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                      cwd='/', start_new_session=True)
        with holder.stdout as ready:
            if ready.readline() != b'ready\n':
                log = (self.directory / 'holder.log').read_text(encoding='utf-8', errors='replace').strip()
                raise LabError(f'The namespaces of node {self.name} could not be made: '
                               f'{(log.splitlines() or ["no output"])[-1]}')
        threading.Thread(target=holder.wait, daemon=True).start()


def holder_command(directory):
    """The holder's command line; it names the node's directory, which is how we find it again."""
    return [sys.executable, str(Path(__file__).resolve()), 'hold', str(directory)]


def holders(directory=None):
    """The ids of the holders of one node, or of all nodes of this home."""
    nodes = system.home() / 'nodes'
    found = []
    for pid in system.process_ids():
        words = system.command_line(pid)
        if len(words) < 3 or words[0] == 'unshare' or words[-2] != 'hold':
            continue
        ours = Path(words[-1]).parent == nodes and words[-3].endswith('lab_node.py')
        if ours and (directory is None or words[-1] == str(directory)):
            found.append(pid)
    return found


def end_holders(directory=None):
    """Ends the holder of one node, or of all nodes of this home; what runs on them ends with it."""
    pids = holders(directory)
    spaces = {system.namespace(pid, 'pid') for pid in pids}
    system.kill(pids)
    wait_until(lambda: not any(system.namespace(pid, 'pid') in spaces for pid in system.process_ids()), 10,
               'The processes of a node do not end.')


def hold(directory):
    """The holder's own life: prepares its namespaces, says so, and waits for ever.

    What it mounts is seen by the node's sshd alone: the lab's users instead of the
    machine's (who are left alone), and empty /run and /var/log, so that no login of the
    lab is recorded on the machine.
    """
    home = Path(directory).parents[1]
    socket.sethostname(Path(directory).name)
    system.mount('overlay', '/etc', kind='overlay', options=f'lowerdir={home / "accounts"}:/etc')
    for place in ('/run', '/var/log'):
        system.mount('tmpfs', place, kind='tmpfs', options='size=16m,mode=755')
    os.mkdir('/run/sshd', 0o755)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps the node's orphans
    print('ready', flush=True)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    while True:
        signal.pause()


if __name__ == '__main__':
    hold(sys.argv[2])
