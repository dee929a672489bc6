# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every part of the lab needs of the machine: commands, mounts, processes."""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

HOME_VARIABLE = 'K3S_ARTIFACT_LAB_HOME'
OPEN_PLACES = ('/tmp', '/var/tmp', '/dev', '/etc', '/proc', '/run', '/sys', '/var/log')


class LabError(Exception):
    """One plain sentence that says what is wrong and, where it helps, what to do."""


def home():
    """The directory that holds everything of the lab: roots, nodes, keys, caches.

    sshd only changes its root into directories that root alone can write to, and
    a node's sshd has a /etc, /run and /var/log of its own, so those are no place for it.
    """
    path = Path(os.environ.get(HOME_VARIABLE) or '/var/lib/k3s-artifact-lab').resolve()
    for place in OPEN_PLACES:
        if path == Path(place) or Path(place) in path.parents:
            raise LabError(f'{HOME_VARIABLE} is {path}, but the lab cannot live below {place}.')
    return path


def say(text):
    """Prints one line of progress."""
    print(f'lab: {text}', flush=True)


@contextlib.contextmanager
def stage(title, times=None):
    """Announces a piece of work and says how long it took; adds (title, seconds) to `times`."""
    say(f'{title} ...')
    start = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - start
        say(f'{title}: {seconds:.1f} s')
        if times is not None:
            times.append((title, seconds))


def run(*argv, check=True, **options):
    """Runs a command and returns its CompletedProcess, output captured as text.

    A command that fails raises LabError with what it wrote.
    """
    argv = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors='replace', check=False, **options)
    except FileNotFoundError as error:
        raise LabError(f'The command {error.filename} is missing; `lab.py install` installs what the '
                       'lab needs.') from error
    if check and done.returncode:
        said = ' '.join((done.stderr.strip() or done.stdout.strip() or 'no output').split())
        raise LabError(f'`{" ".join(argv)}` failed with status {done.returncode}: {said[-500:]}')
    return done


def require_root():
    """Raises LabError unless we are root on the kind of machine the lab is made for."""
    if os.geteuid() != 0:
        raise LabError('The lab mounts file systems and starts sshd, so it needs root.')
    if os.uname().machine != 'x86_64':
        raise LabError(f'The lab needs an x86_64 machine, and this one is {os.uname().machine}.')


# Mounts

def mounts(below):
    """Mount points at or below a directory, the ones mounted last first."""
    found = []
    for line in Path('/proc/self/mountinfo').read_text(encoding='utf-8').splitlines():
        point = Path(line.split(' ')[4].encode().decode('unicode_escape'))
        if point == Path(below) or Path(below) in point.parents:
            found.append(point)
    return found[::-1]


def mount(source, target, *, kind=None, options=None, bind=False):
    """Mounts `source` on `target`; `kind` is a file system type, `options` a comma list."""
    argv = ['mount']
    if kind:
        argv += ['-t', kind]
    if options:
        argv += ['-o', options]
    if bind:
        argv.append('--bind')
    run(*argv, source, target)


def unmount_all(below):
    """Detaches every mount at or below a directory, whoever still uses it."""
    for point in mounts(below):
        run('umount', '-l', point, check=False)


# Processes

def process_ids():
    """The ids of all processes."""
    return [int(name) for name in os.listdir('/proc') if name.isdigit()]


def command_line(pid):
    """A process's arguments, or an empty list when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f'/proc/{pid}/cmdline').read_bytes().decode(errors='replace').split('\0')[:-1]
    return []


def process_name(pid):
    """A process's short name, or an empty string when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f'/proc/{pid}/comm').read_text(encoding='utf-8', errors='replace').strip()
    return ''


def parent(pid):
    """The id of a process's parent, or 0 when it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f'/proc/{pid}/stat').read_text(encoding='utf-8',
                                                       errors='replace').rpartition(')')[2].split()[1])
    return 0


def namespace(pid, kind):
    """Identifies a process's namespace, or None when it is gone."""
    with contextlib.suppress(OSError):
        return os.readlink(f'/proc/{pid}/ns/{kind}')
    return None


def send(pids, number):
    """Sends a signal to those of the processes that have not ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill(pids, timeout=10):
    """Kills processes and waits until they are gone."""
    send(pids, signal.SIGKILL)
    wait_until(lambda: not any(_alive(pid) for pid in pids), timeout, 'A killed process does not end.')


def _alive(pid):
    """Whether a process still runs (a zombie does not)."""
    with contextlib.suppress(OSError):
        return Path(f'/proc/{pid}/stat').read_text(encoding='utf-8',
                                                   errors='replace').rpartition(')')[2].split()[0] != 'Z'
    return False


def wait_until(condition, timeout, message):
    """Waits until `condition()` is true; raises LabError with `message` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise LabError(message)
        time.sleep(0.01)


class Lock:
    """One lab per home: taken by whoever brings it up, given back by the kernel at the latest."""

    def __init__(self):
        self._file = None

    def take(self):
        """Takes the lock unless this process has it; raises LabError when another one has."""
        if self._file:
            return
        home().mkdir(mode=0o755, parents=True, exist_ok=True)
        file = open(home() / 'lock', 'a+', encoding='utf-8')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or 'unknown'
            file.close()
            raise LabError(f'The lab in {home()} is in use by process {owner}; wait for it or stop it.') from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def give_back(self):
        """Gives the lock back."""
        if self._file:
            self._file.close()
            self._file = None
