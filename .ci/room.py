# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say where the room of the disk goes while .ci/run is at work, and empty a file that grows without end.

What the tests keep there at a time is less than two gigabytes. Whoever writes more would fill the disk, and what fails
then is whatever happens to run. So each loss of a gigabyte is printed with the processes that wrote most, and a file of
more than LARGE with those that hold it. If it is a file of the tests, it is emptied; who goes on and on is ended, if
.ci/run started it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests' / 'integration' / 'lab'))

from lab_system import command_line, process_ids, send

LARGE, STEP, EVERY, PATIENCE = 3 << 30, 1 << 30, 3, 20  # bytes, bytes, seconds, looks
TEMPORARY = os.environ.get('TMPDIR', '/tmp')
DELETED = ' (deleted)'  # what the kernel writes behind the name of a file that has none any more


def free():
    room = os.statvfs('.')
    return room.f_bavail * room.f_frsize


def line(pid):
    """Return what runs as *pid* and what started it, shortened."""
    said = []
    while pid > 1 and len(said) < 4:
        words = ' '.join(command_line(pid)).split()
        said.append(f'{pid} {" ".join(words)[:150]}')
        pid = parent(pid)
    return ' < '.join(said)


def parent(pid):
    try:
        return int(Path(f'/proc/{pid}/stat').read_text(errors='replace').rpartition(')')[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def ours(pid, root):
    """Return whether *root*, the process of .ci/run, has started *pid*."""
    while pid > 1 and pid != root:
        pid = parent(pid)
    return pid == root


def written():
    """Return how many bytes each process has written, as far as it can be known."""
    found = {}
    for pid in process_ids():
        with contextlib.suppress(OSError, ValueError, IndexError):
            found[pid] = int(Path(f'/proc/{pid}/io').read_text().split('\nwrite_bytes: ')[1].split()[0])
    return found


def is_large(state, disk):
    return stat.S_ISREG(state.st_mode) and state.st_dev == disk and state.st_blocks * 512 > LARGE


def held(disk):
    """Return the large files that are open, by what leads to them: their name, their size, and who holds them."""
    found = {}
    for pid in process_ids():
        with contextlib.suppress(OSError):
            for entry in os.scandir(f'/proc/{pid}/fd'):
                with contextlib.suppress(OSError):
                    state = os.stat(entry.path)
                    if is_large(state, disk):
                        found.setdefault(state.st_ino, (entry.path, os.readlink(entry.path),
                                                        state.st_blocks * 512, set()))[3].add(pid)
    return found


def places():
    """Return the folders in which everything is of the tests."""
    return [os.getcwd(), *map(str, Path(TEMPORARY).glob('pytest-of-*'))]


def is_of_the_tests(name, holders, root):
    if name.endswith(DELETED):
        return any(ours(pid, root) for pid in holders)
    return any(Path(place) in Path(name).parents for place in places())


def lying(disk):
    """Return the large files of the tests, open or not, as :func:`held` does."""
    found = {}
    for place in places():
        for folder, _folders, names in os.walk(place):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    state = os.lstat(path)
                    if is_large(state, disk):
                        found[state.st_ino] = (path, os.path.abspath(path), state.st_blocks * 512, set())
    return found


def empty(path, writers):
    """Empty a file, and end *writers*."""
    for pid in writers:
        print(f'  ended: {line(pid)}')
    send(writers, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.truncate(path, 0)


def look(before, now):
    """Print what has been written between two looks, and return the large files."""
    wrote = {pid: (count - before.get(pid, 0)) >> 20 for pid, count in now.items()}
    for pid in sorted(wrote, key=lambda pid: -wrote[pid])[:4]:
        if wrote[pid] > 50:
            print(f'  wrote {wrote[pid]} MB: {line(pid)}')
    disk = os.stat('.').st_dev
    found = {**lying(disk), **held(disk)}
    if not found:
        subprocess.run(['du', '-xhd', '5', '-t', '1G', '.', TEMPORARY], stderr=subprocess.DEVNULL, check=False)
    return found


def main():
    sys.stdout.reconfigure(line_buffering=True)
    root, seen = os.getppid(), collections.Counter()
    start, last, before = time.monotonic(), free(), written()
    while os.getppid() == root:
        time.sleep(EVERY)
        room, now = free(), written()
        if abs(room - last) >= STEP:
            print(f'{time.monotonic() - start:.0f} s: {room >> 30} GiB free, {(room - last) / (1 << 30):+.1f}')
            for inode, (path, name, size, holders) in (look(before, now) if room < last else {}).items():
                print(f'  {name} has {size >> 20} MB; held by: {"; ".join(map(line, holders)) or "nobody"}')
                if is_of_the_tests(name, holders, root):
                    empty(path, [pid for pid in holders if seen[inode] > PATIENCE and ours(pid, root)])
                    seen[inode] += 1
            last = free()
        before = now


if __name__ == '__main__':
    main()
