# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests on real nodes share: a node with an old K3s, the task that brings a newer one, and faults meanwhile."""

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lab_system as system
import support
from lab import crypt
from lab_release import MEGABYTE

OLD, NEW = 'v1.30.0+k3s1', 'v1.31.4+k3s1'
SMALL, BIG = 2 * MEGABYTE, 10 * MEGABYTE
RATE = '30mbit'  # BIG takes three seconds
K3S = '/usr/local/bin/k3s'
PARTIAL = re.compile(r'\.k3s-artifact\.k3s\.([0-9a-f]{64})(\.\d+)?\.part')
OF_A_LOGIN = ('/run/', '/var/lib/sudo/')  # what sudo writes there is not ours


class Site:
    """An old K3s on a node, a newer one on the controller, and the task that brings it there."""

    def __init__(self, lab, folder, node, size=SMALL):
        self.lab, self.folder, self.node = lab, folder, node
        release = lab.release(folder / 'airgap', layout='flat', version=NEW, size=size, images_size=1000,
                              arches=[node.arch])
        self.source = release.binaries[node.arch]
        self.new = support.sha256(self.source)
        self.install_old()
        self.before = set()
        self.controls = tempfile.mkdtemp(prefix='k3s-')  # a short path: that of a socket may have 108 characters

    def install_old(self):
        """Put the old K3s at the install path, as an administrator would."""
        old = self.lab.release(self.folder / 'old', layout='flat', version=OLD, size=SMALL // 2, images_size=1000,
                               arches=[self.node.arch])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(old.binaries[self.node.arch], self.path)
        self.path.chmod(0o755)
        self.old = support.sha256(self.path)

    @property
    def path(self):
        return self.node.path(K3S)

    @property
    def partial(self):
        """The partial file of the newer K3s, the last written where there are more; or where one could be."""
        found = {}
        for path in self.path.parent.glob(f'.k3s-artifact.k3s.{self.new}*.part'):
            with contextlib.suppress(OSError):
                found[path.stat().st_mtime_ns] = path
        return found[max(found)] if found else self.path.parent / f'.k3s-artifact.k3s.{self.new}.1.part'

    def play(self, user='root', play=None, before=(), arguments=None, variables=None, folder=None, nodes=None, words=(),
             of_host=None, env=None):
        """Run the task that copies the binary and return the :class:`support.Run`."""
        folder = folder or self.folder
        inventory = self.lab.inventory(folder / 'inventory.yml', nodes or [self.node], user=user, **(variables or {}))
        if of_host:
            content = json.loads(inventory.read_text())
            for known in content['all']['hosts'].values():
                known.update(of_host)
            inventory.write_text(json.dumps(content))
        task = {'name': 'stage', 'copy': {'src': str(self.source), 'dest': K3S, 'mode': '0755', **(arguments or {})}}
        plays = [*before, {'hosts': 'all', 'gather_facts': False, 'tasks': [task], **(play or {})}]
        return support.play(folder, plays, *words, hosts=inventory,
                            env={'ANSIBLE_SSH_CONTROL_PATH_DIR': self.controls, 'ANSIBLE_TIMEOUT': '60', **(env or {})})

    def files(self):
        """Every file of the node by its path there."""
        found = set()
        for place, folders, names in os.walk(self.node.root):
            if Path(place) == self.node.root:
                folders[:] = [name for name in folders if name not in ('proc', 'sys', 'dev')]
            found.update('/' + os.path.relpath(os.path.join(place, name), self.node.root) for name in names)
        # sudo leaves a mark in the home of a user whose group is called admin
        return {path for path in found
                if not path.startswith(OF_A_LOGIN) and not path.endswith('/.sudo_as_admin_successful')}

    def remember(self):
        """Take what is on the node now for what was there before the fault."""
        self.before = self.files()

    def check_unharmed(self, runs=True):
        """Check that the old K3s is there and runs, and that at most one partial file that can be resumed is new."""
        assert support.sha256(self.path) == self.old
        assert self.path.stat().st_mode & 0o7777 == 0o755
        if runs:
            assert self.node.run(f'{K3S} --version').stdout.startswith(f'k3s version {OLD}')
        assert self.before <= self.files()
        left = [Path(path) for path in self.files() - self.before]
        assert len(left) <= 1, left
        for path in left:
            assert PARTIAL.fullmatch(path.name) and path.parent == Path(K3S).parent
            assert self.node.path(path).stat().st_mode & 0o7177 == 0, 'neither executable nor anybody else\'s to read'
            assert self.node.path(path).stat().st_dev == self.path.stat().st_dev

    def check_repaired(self, run):
        assert run.rc == 0, run.output
        assert support.sha256(self.path) == self.new
        assert self.path.stat().st_mode & 0o7777 == 0o755
        assert self.node.run(f'{K3S} --version').stdout.startswith(f'k3s version {NEW}')
        assert self.files() == self.before | {K3S}


def said(run, host=None):
    """What the last result of the task says that failed or could not be reached."""
    failed = [entry for entry in run.results if entry['status'] in ('failed',
                                                                    'unreachable') and host in (None, entry['host'])]
    assert failed, run.output
    return failed[-1]['result']['msg']


def during(here, moment, act, **options):
    """Run the task, call *act* when *moment* has come, and return the run."""
    with ThreadPoolExecutor() as pool:
        run = pool.submit(here.play, **options)
        reach(moment, run)
        act()
        return run.result()


def reach(moment, run):
    system.wait_until(lambda: run.done() or moment(), 120, 'The moment for the fault does not come.')
    assert not run.done(), run.result().output


def arrived(here, share):
    """Return a function that tells whether *share* of the file has arrived. Shortly before, the link becomes slow."""
    steps = [(share - 0.05, '4mbit'), (share - 0.01, '256kbit')]

    def moment():
        size = here.partial.stat().st_size if here.partial.exists() else 0
        while steps and size >= steps[0][0] * BIG:
            here.node.throttle(steps.pop(0)[1])
        return size >= share * BIG
    return moment


def cut(here):
    assert here.node.kill_connections() > 0
    here.node.throttle(RATE)


def kill_controller(here):
    """Kill all of the run's processes on the controller, as the loss of its power would."""
    system.kill([pid for pid in system.process_ids() if str(here.folder / 'inventory.yml') in system.command_line(pid)])
    here.node.throttle(RATE)


def lie(node, commands):
    """Replace the node's uname by other shell commands."""
    uname = node.path('/usr/bin/uname')
    if not uname.with_name('uname.true').exists():
        uname.rename(uname.with_name('uname.true'))
    uname.write_text(f'#!/bin/sh\n{commands}\n')
    uname.chmod(0o755)


def tell_the_truth(node):
    uname = node.path('/usr/bin/uname')
    uname.with_name('uname.true').rename(uname)


def spoilt(site, content):
    """Give the site another binary that its checksum list confirms; yield, and put the right one back."""
    good = site.source.read_bytes()
    listed = site.source.with_name(f'sha256sum-{site.node.arch}.txt')
    text = listed.read_text()
    site.source.write_bytes(content)
    listed.write_text(f'{support.sha256(site.source)}  {site.source.name}\n')
    yield
    site.source.write_bytes(good)
    listed.write_text(text)


def set_password(node, user, password):
    """Give a user of a node a password that sudo, doas and su ask for there."""
    shadow = node.path('/etc/shadow')
    others = [line for line in shadow.read_text().splitlines() if not line.startswith(f'{user}:')]
    shadow.write_text('\n'.join([f'{user}:{crypt(password)}:19000:0:99999:7:::', *others, '']))


def sudoers(node, *lines, ask=False):
    """Replace the lab's rule for sudo on a node; *ask*: sudo then checks passwords, as it does everywhere else."""
    rule = node.path('/etc/sudoers.d/admin')
    rule.write_text('\n'.join(lines) + '\n')
    if ask:
        shutil.copy(node.path('/etc/pam.d/su'), node.path('/etc/pam.d/sudo'))


class Proxy:
    """A TCP proxy in front of a node's sshd, on 127.0.0.1 or ::1, whose connections can be cut or go silent.

    cuts     after how many bytes from the controller a connection is cut, one number for each cut, in order
    freeze() from now on nothing goes through, and nobody is told: to the node, the controller is simply silent
    """

    def __init__(self, node, cuts=(), address='127.0.0.1'):
        self._node, self._cuts, self._silent, self._lines = node, list(cuts), threading.Event(), []
        self._listener = socket.create_server((address, 0),
                                              family=socket.AF_INET6 if ':' in address else socket.AF_INET)
        self.host, self.port = address, self._listener.getsockname()[1]
        self.variables = {'ansible_host': address, 'ansible_port': self.port}
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()
        for line in self._lines:
            close(line)

    def freeze(self):
        """Go silent on the connections there are; new ones work."""
        self._silent.set()
        self._silent = threading.Event()

    def _serve(self):
        while True:
            try:
                near, _address = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((self._node.host, self._node.port))
            self._lines += [near, far]
            for source, sink, counts in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pump, args=(source, sink, counts, self._silent), daemon=True).start()

    def _pump(self, source, sink, counts, silent):
        done = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if silent.is_set():
                    return
                sink.sendall(data)
                done += len(data)
                if counts and self._cuts and done >= self._cuts[0]:
                    self._cuts.pop(0)
                    break
        if not silent.is_set():
            close(source)
            close(sink)


def close(line):
    """End a TCP connection for both sides."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()
