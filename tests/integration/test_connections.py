# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that are no ssh, and a become that needs a terminal: the plugin carries the file, each host's to
that host."""

from __future__ import annotations

import pytest

import support
from standin import HERE

NATIVE = support.NATIVE
FOREIGN = 'arm64' if NATIVE == 'amd64' else 'amd64'
OLD = support.program('k3s version v1.30.0+k3s1 (old)')

# Runs commands in the folder of a node, and copies files by a command there, as plugins for containers do.
BOX = """
import shlex, subprocess
from ansible.plugins.connection import ConnectionBase
DOCUMENTATION = '''
name: box
short_description: a folder
options:
  remote_addr: {description: the folder, vars: [{name: ansible_host}]}
'''
class Connection(ConnectionBase):
    transport, has_pipelining, _connected = TRANSPORT, True, True
    def _connect(self):
        return self
    def _inside(self, cmd, **keywords):
        return subprocess.run(['/bin/sh', '-c', cmd], cwd=self.get_option('remote_addr'), **keywords)
    def exec_command(self, cmd, in_data=None, sudoable=False):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = self._inside(cmd, input=in_data or b'', capture_output=True)
        return done.returncode, done.stdout, done.stderr
    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        with open(in_path, 'rb') as file:
            self._inside('cat >' + shlex.quote(out_path), stdin=file, check=True)
    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
    def close(self):
        pass
"""

# Asks on the terminal whether one may become root, as run0 does by polkit. The method is not part of ansible-core.
TERMINAL = """
from ansible.plugins.become import BecomeBase
DOCUMENTATION = '''
name: terminal
short_description: a terminal
options:
  become_user: {description: who, default: root, vars: [{name: ansible_become_user}], keyword: [{name: become_user}]}
  become_exe: {description: what, vars: [{name: ansible_become_exe}], keyword: [{name: become_exe}]}
  become_flags: {description: how, default: '', vars: [{name: ansible_become_flags}], keyword: [{name: become_flags}]}
  become_pass: {description: password, vars: [{name: ansible_become_password}]}
'''
class BecomeModule(BecomeBase):
    name, require_tty, pipelining = 'terminal', REQUIRES, PIPELINING
    def build_become_command(self, cmd, shell):
        super().build_become_command(cmd, shell)
        return f'{self.get_option("become_exe")} {self._build_success_command(cmd, shell)}' if cmd else cmd
"""


def write_plugin(standin, kind, name, text, **words):
    (standin.folder / kind).mkdir()
    for word, value in words.items():
        text = text.replace(word.upper(), repr(value))
    (standin.folder / kind / f'{name}.py').write_text(text)


@pytest.mark.parametrize('transport', ['docker', 'community.docker.docker', 'podman', 'chroot', 'ssh', 'kubectl'])
def test_a_plugin_that_is_no_ssh_carries_each_hosts_file_to_that_host(standin, transport):
    """Whatever the plugin calls its transport: it is asked for its own put_file."""
    write_plugin(standin, 'connection_plugins', 'box', BOX, transport=transport)
    own = {'ansible_connection': 'box', 'ansible_remote_tmp': str(standin.folder / 'remote')}
    hosts = {'own': standin.host('own', before=OLD, **own),
             'other': standin.host('other', **own, k3s_artifact_probe=False,
                                   k3s_artifact_machine=support.MACHINES[FOREIGN])}
    for name, variables in hosts.items():
        variables['ansible_host'] = str(standin.nodes / name)
    for way, came in (('put_file', 'pushed'), (None, 'there')):
        run = standin.stage(hosts)
        assert run.rc == 0, run.output
        for name, arch in (('own', NATIVE), ('other', FOREIGN)):
            source = standin.folder / 'airgap' / support.BINARIES[arch]
            assert standin.installed(name).read_bytes() == source.read_bytes() and standin.beside(name) == []
            known = run.result(name, 'stage')['k3s_artifact']
            assert (known.get('way'), known['came']) == (way, came)
    assert not standin.calls()


@pytest.mark.parametrize(('requires', 'pipelining'), [(True, False), (False, False), (True, True)])
def test_a_become_that_needs_a_terminal_gets_one(standin, requires, pipelining):
    write_plugin(standin, 'become_plugins', 'terminal', TERMINAL, requires=requires, pipelining=pipelining)
    # Without -tt in the configuration, core itself refuses a become that says so.
    env = {'ANSIBLE_SSH_EXTRA_ARGS': '-tt'} if requires else {}
    hosts = {'node': standin.host('node', support.MACHINES[NATIVE], OLD, ansible_become_exe=str(HERE / 'sudo'))}
    run = standin.stage(hosts, become=True, become_method='terminal', env=env)
    assert run.rc == 0, run.output
    source = standin.folder / 'airgap' / support.BINARIES[NATIVE]
    assert standin.installed('node').read_bytes() == source.read_bytes() and standin.beside('node') == []
    assert run.result('node', 'stage')['k3s_artifact']['way'] == 'put_file'
    again = standin.stage(hosts, become=True, become_method='terminal', env=env)
    assert (again.rc, again.changed()) == (0, 0), again.output
