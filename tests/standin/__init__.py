# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that are folders of this machine and are reached through ansible-core's own connection plugin ssh.

The program that the plugin starts runs ``ssh.py`` in this folder. So the plugin's ways with a connection are the
real ones, its options, retries, terminals and time limits, and no root and no network is needed.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import support

HERE = Path(__file__).parent
INSTALLED = 'bin/k3s'


class Standin:
    """A folder of nodes behind the stand-in for ssh.

    nodes    the folder that has a folder for each host, in which its commands start
    Keywords become what the stand-in does:
    logins   how many logins a host allows before it refuses, None for any number (an open master needs none)
    cuts     after how many bytes of standard input a call is cut, one number for each cut, in order
    banner   what a login prints on standard output around the command's own; the output of earlier calls goes with it
    rate     bytes of standard input in a second, None for no limit
    seed     chooses how what the node says is spoilt on its way, None for not at all
    mark     a file that what the node says would make, were it ever evaluated
    """

    def __init__(self, folder, **behaviour):
        self.folder, self.nodes, self.state = folder, folder / 'nodes', folder / 'standin'
        self.state.mkdir()
        self.ssh = folder / 'standin-ssh'
        self.ssh.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-IS", str(HERE / "ssh.py")])} "$@"\n')
        self.ssh.chmod(0o755)
        self.config = {'nodes': str(self.nodes), 'state': str(self.state), 'logins': None, 'cuts': [], 'banner': '',
                       'rate': None, 'seed': None,
                       'mark': str(folder / 'mark'), **behaviour}
        self.behave()

    def behave(self, **behaviour):
        """Change what the stand-in does from the next call on."""
        self.config.update(behaviour)
        (self.folder / 'standin.json').write_text(json.dumps(self.config))

    def host(self, name, machine=None, before=None, dest=None, **variables):
        """Make the folder of a node that calls itself *machine*, with *before* as its old K3s; return its variables."""
        node = self.nodes / name
        (node / 'programs').mkdir(parents=True)
        (node / 'bin').mkdir()
        if before is not None:
            self.installed(name).write_bytes(before)
            self.installed(name).chmod(0o755)
        if machine:
            self.program(name, 'uname', f'case $* in *m*) echo {machine} ;; *) exec $real "$@" ;; esac')
        return {'ansible_connection': 'ssh', 'ansible_ssh_executable': str(self.ssh),
                'ansible_ssh_transfer_method': 'piped',
                'ansible_python_interpreter': sys.executable, 'k3s_artifact_dir': str(self.folder / 'airgap'),
                'k3s_artifact_dest': dest or str(self.installed(name)), **variables}

    def program(self, host, name, text):
        """Put a shell script into the PATH of a node; $real is the program of that name."""
        path = self.nodes / host / 'programs' / name
        path.write_text(f'#!/bin/sh\nreal={shutil.which(name)}\n{text}\n')
        path.chmod(0o755)

    def installed(self, host):
        return self.nodes / host / INSTALLED

    def beside(self, host):
        """Return the names in the folder of the node's binary, the binary itself left out."""
        return sorted(path.name for path in self.installed(host).parent.iterdir() if path.name != 'k3s')

    @property
    def environment(self):
        """What the stand-in needs in the environment of Ansible's programs."""
        controls = self.folder / 'controls'
        return {'K3S_STANDIN': str(self.folder / 'standin.json'), 'ANSIBLE_SSH_CONTROL_PATH_DIR': str(controls)}

    def calls(self):
        """Return what each call was: host, login, reached, options, flags, argv, bytes, rc (None while it runs)."""
        paths = sorted(path for path in self.state.glob('call-*') if path.suffix != '.new')
        return [{'rc': None, **json.loads(path.read_text())} for path in paths]

    def forget(self):
        """Forget the calls and logins there were."""
        for path in self.state.iterdir():
            path.unlink()

    def stage(self, hosts, /, *tasks, env=None, arguments=(), home='drop-in', timeout=300, timeout_of_task=None,
              **play):
        """Run tasks, without any one called "stage" that copies the binary; return the :class:`support.Run`."""
        source = self.folder / 'airgap' / support.BINARIES[support.NATIVE]
        tasks = tasks or ({'name': 'stage', 'copy': {'src': str(source)}},)
        play.update({'timeout': timeout_of_task} if timeout_of_task else {})
        plays = [{'hosts': 'all', 'gather_facts': False, **play, 'tasks': list(tasks)}]
        return support.play(self.folder, plays, *arguments, hosts=hosts, home=home, timeout=timeout,
                            env={**self.environment, **(env or {})})
