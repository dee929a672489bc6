# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections other than ansible-core's ssh, Mitogen's among them, and controllers that are set up oddly."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import support
from lab_node import HOST_KEY_OPTIONS
from lab_site import BIG, K3S
from lab_system import home

# Leads into the root of a node by chroot, and copies files by a command there, as plugins for containers do.
CHROOT = """
import shlex, subprocess
from ansible.plugins.connection import ConnectionBase
DOCUMENTATION = '''
name: lab_chroot
short_description: chroot
options:
  remote_addr: {description: the folder, vars: [{name: inventory_hostname}, {name: ansible_host}]}
'''
class Connection(ConnectionBase):
    transport, has_pipelining, _connected = TRANSPORT, PIPELINING, True
    def _connect(self):
        return self
    def exec_command(self, cmd, in_data=None, sudoable=False):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = subprocess.run(['chroot', self.get_option('remote_addr'), '/bin/sh', '-c', cmd], input=in_data or b'',
                              capture_output=True)
        return done.returncode, done.stdout, done.stderr
    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        with open(in_path, 'rb') as file:
            subprocess.run(['chroot', self.get_option('remote_addr'), '/bin/sh', '-c', 'cat >' + shlex.quote(out_path)],
                           stdin=file, check=True)
    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
    def close(self):
        pass
"""


def check_staged(here, way, **options):
    """Check that the task puts the new K3s in place in the way that is meant, and that it then has nothing to do."""
    here.remember()
    run = here.play(**options)
    print(run.output)
    here.check_repaired(run)
    assert run.result(here.node.name, 'stage')['k3s_artifact']['way'] == way
    again = here.play(**options)
    assert (again.rc, again.changed()) == (0, 0), again.output


@pytest.fixture(scope='session', name='pip')
def fixture_pip():
    """A function that gives a folder for PYTHONPATH with a distribution from PyPI, kept for the next run."""
    def give(requirement):
        folder = home() / 'python' / f'{requirement}-{sys.version_info[0]}.{sys.version_info[1]}'
        if not (folder / 'complete').exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--target', str(folder), requirement],
                           check=True)
            (folder / 'complete').touch()
        return str(folder)
    return give


# --- connections


@pytest.mark.parametrize('kind', ['amd64', 'busybox'])
@pytest.mark.parametrize(('transport', 'pipelining'), [
    ('chroot', True), ('docker', True), ('community.docker.docker', False)])
def test_a_plugin_that_is_no_ssh_gets_the_file_by_its_own_put_file(site, kind, transport, pipelining):
    here = site(kind)
    (here.folder / 'connection_plugins').mkdir()
    (here.folder / 'connection_plugins' / 'lab_chroot.py').write_text(
        CHROOT.replace('TRANSPORT', repr(transport)).replace('PIPELINING', repr(pipelining)))
    check_staged(here, 'put_file', variables={'ansible_connection': 'lab_chroot'},
                 of_host={'ansible_host': str(here.node.root)}, env={'ANSIBLE_PIPELINING': str(pipelining)})


def test_paramiko(site, pip):
    here = site('amd64', BIG)
    check_staged(here, 'put_file', variables={'ansible_connection': 'paramiko_ssh'},
                 env={'PYTHONPATH': pip('paramiko<4'), 'ANSIBLE_HOST_KEY_CHECKING': 'false',
                      'ANSIBLE_DEPRECATION_WARNINGS': 'false'})


@pytest.mark.parametrize('home_', ['drop-in', 'collection'])
@pytest.mark.parametrize('become', [False, True], ids=['as root', 'by sudo'])
def test_mitogen(lab, tmp_path, nodes, pip, home_, become):
    """Two architectures in one run: Mitogen serves all hosts from one process."""
    python = pip('mitogen==0.3.54')
    release = lab.release(tmp_path / 'airgap', layout='flat', size=2_000_000, images_size=1000)
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values(), user='admin' if become else 'root')
    action = 'copy' if home_ == 'drop-in' else 'airgap.k3s.copy'
    for node in nodes.values():
        node.path(K3S).parent.mkdir(parents=True, exist_ok=True)
    plays = [{'hosts': 'all', 'gather_facts': False, 'become': become, 'tasks': [
        {'name': 'stage', action: {'src': str(release.binaries['amd64']), 'dest': K3S}}]}]
    env = {'PYTHONPATH': python, 'ANSIBLE_STRATEGY': 'mitogen_linear', 'ANSIBLE_HOST_KEY_CHECKING': 'false',
           'ANSIBLE_STRATEGY_PLUGINS': f'{python}/ansible_mitogen/plugins/strategy'}
    run = support.play(tmp_path, plays, hosts=inventory, home=home_, env=env)
    print(run.output)
    assert run.rc == 0
    for node in nodes.values():
        assert support.sha256(node.path(K3S)) == support.sha256(release.binaries[node.arch]), node
        assert [path.name for path in node.path(K3S).parent.glob('.*')] == []
    again = support.play(tmp_path, plays, hosts=inventory, home=home_, env=env)
    assert (again.rc, again.changed()) == (0, 0), again.output


# --- ssh as the user has it


def test_a_configuration_file_of_ones_own_beside_a_broken_one(site):
    """ssh ends at a line that it does not know; with -F it never reads that file, and nothing of ours may."""
    here = site('amd64')
    (here.folder / 'home' / '.ssh').mkdir(parents=True)
    (here.folder / 'home' / '.ssh' / 'config').write_text('NoSuchOption yes\n')
    config = here.folder / 'ssh_config'
    config.write_text(f'Host node\nHostName {here.node.host}\nPort {here.node.port}\n')
    check_staged(here, 'stream', variables={'ansible_ssh_common_args': shlex.join(['-F', str(config),
                                                                                   *HOST_KEY_OPTIONS])},
                 of_host={'ansible_host': 'node'})


def test_a_command_of_the_user_as_the_way_to_the_node(site):
    here = site('amd64', BIG)
    relay = here.folder / 'relay.py'
    relay.write_text(f"""
import os, socket, sys, threading
line = socket.create_connection(({here.node.host!r}, {here.node.port}))
def forth():
    while data := os.read(0, 65536):
        line.sendall(data)
    line.shutdown(socket.SHUT_WR)
threading.Thread(target=forth, daemon=True).start()
while data := line.recv(65536):
    while data:
        data = data[os.write(1, data):]
""")
    common = [*HOST_KEY_OPTIONS, '-o', f'ProxyCommand={sys.executable} {relay}']
    check_staged(here, 'stream', variables={'ansible_ssh_common_args': shlex.join(common)},
                 of_host={'ansible_host': '192.0.2.1', 'ansible_port': 1})


def test_another_program_in_place_of_ssh(site):
    here = site('amd64')
    wrapper, mark = here.folder / 'my-ssh', here.folder / 'mark'
    wrapper.write_text(f'#!/bin/sh\necho x >>{mark}\nexec {shutil.which("ssh")} "$@"\n')
    wrapper.chmod(0o755)
    check_staged(here, 'stream', variables={'ansible_ssh_executable': str(wrapper)})
    assert mark.read_text().count('x') >= 2


@pytest.mark.parametrize('folder', ['/proc/nowhere', '/sys/kernel'], ids=['no folder can be made', 'no sockets there'])
def test_a_controller_that_has_no_folder_for_sockets(site, folder):
    """Core itself can only do without: the user has turned shared connections off."""
    here = site('amd64')
    check_staged(here, 'stream', variables={'ansible_control_path_dir': folder,
                                            'ansible_ssh_args': '-o ControlMaster=no -o ControlPath=none'})


def test_a_controller_whose_home_is_the_root_folder(site):
    here = site('amd64')
    made = Path('/.ansible')
    existed = made.exists()
    try:
        check_staged(here, 'stream', env={'HOME': '/', 'ANSIBLE_SSH_CONTROL_PATH_DIR': '~/.ansible/cp'})
    finally:
        if not existed:
            shutil.rmtree(made, ignore_errors=True)
