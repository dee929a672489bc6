# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other people's ways to a node: their shells, their sudo, their ssh. The binary arrives where the task says."""

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lab_system as system
import support
from lab_node import HOST_KEY_OPTIONS
from lab_release import MEGABYTE
from lab_roots import LOGIN_SHELLS
from lab_site import BIG, K3S, NEW, Proxy, set_password, sudoers

PASSWORD = 'open sesame'

# Asks for its password on the terminal, and so needs one. The method is not part of ansible-core.
DOAS = r"""
from ansible.plugins.become import BecomeBase
import shlex
DOCUMENTATION = '''
name: lab_doas
short_description: doas
options:
  become_user: {description: who, default: root, vars: [{name: ansible_become_user}], keyword: [{name: become_user}]}
  become_exe: {description: what, default: doas, vars: [{name: ansible_become_exe}], keyword: [{name: become_exe}]}
  become_flags: {description: how, default: '', vars: [{name: ansible_become_flags}], keyword: [{name: become_flags}]}
  become_pass: {description: password, vars: [{name: ansible_become_password}]}
'''
class BecomeModule(BecomeBase):
    name = 'lab_doas'
    prompt = 'password:'
    fail = ('doas: Authorization failed', 'doas: Authentication failed')
    def check_password_prompt(self, b_output):
        return b'password:' in b_output
    def build_become_command(self, cmd, shell):
        super().build_become_command(cmd, shell)
        if not self.get_option('become_pass'):
            self.prompt = ''
        flag = '' if self.get_option('become_pass') else '-n '
        return f'doas {flag}-u {self.get_option("become_user")} {self._build_success_command(cmd, shell)}'
"""

INSIDE = """
from ansible.plugins.connection.ssh import Connection as Ssh, DOCUMENTATION as SSH_DOCUMENTATION
import shlex
DOCUMENTATION = SSH_DOCUMENTATION.replace('name: ssh', 'name: inside')
class Connection(Ssh):
    def exec_command(self, cmd, in_data=None, sudoable=True):
        return super().exec_command('chroot /container /bin/sh -c ' + shlex.quote(cmd), in_data, sudoable)
    def put_file(self, in_path, out_path):
        return super().put_file(in_path, '/container' + out_path)
"""


def put(here, kind, name, text):
    """Write a plugin of the user's beside the playbook."""
    (here.folder / kind).mkdir(exist_ok=True)
    (here.folder / kind / f'{name}.py').write_text(text)


def check_staged(here, **options):
    """Check that the task puts the new K3s in place, and that it then has nothing to do."""
    here.remember()
    run = here.play(**options)
    print(run.output)
    here.check_repaired(run)
    again = here.play(**options)
    assert (again.rc, again.changed()) == (0, 0), again.output


# --- shells


@pytest.mark.parametrize('shell', LOGIN_SHELLS)
def test_the_login_shell_does_not_matter(site, shell):
    here = site('amd64')
    target = here.node.path(f'/home/{shell}/k3s')
    variables = {'k3s_artifact_dest': f'/home/{shell}/k3s'}
    assert here.node.run('echo $0 $version', user=shell).stdout.strip()
    run = here.play(user=shell, variables=variables)
    assert run.rc == 0, run.output
    assert support.sha256(target) == here.new and target.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in target.parent.glob('.k3s*')] == []
    again = here.play(user=shell, variables=variables)
    assert (again.rc, again.changed()) == (0, 0), again.output


@pytest.mark.parametrize('shell', ['posh', 'zsh', 'mksh', 'yash', 'bash'])
def test_the_shell_that_is_called_sh_does_not_matter(site, shell):
    here = site('amd64')
    system_shell(here.node, shell)
    check_staged(here)


def system_shell(node, shell):
    """Make another shell the node's /bin/sh."""
    node.path('/usr/bin/sh').unlink()
    node.path('/usr/bin/sh').symlink_to(shell)


# --- becoming root


@pytest.mark.parametrize('password', [False, True], ids=['no password', 'with a password'])
def test_a_sudo_that_requires_a_terminal(site, password):
    here = site('amd64')
    set_password(here.node, 'admin', PASSWORD)
    sudoers(here.node, 'Defaults:admin requiretty',
            'admin ALL=(ALL:ALL) ALL' if password else 'admin ALL=(ALL:ALL) NOPASSWD: ALL', ask=password)
    check_staged(here, user='admin', play={'become': True},
                 variables={'ansible_become_password': PASSWORD} if password else {})


def test_a_sudo_that_asks_for_a_password(site):
    here = site('amd64')
    set_password(here.node, 'admin', PASSWORD)
    sudoers(here.node, 'admin ALL=(ALL:ALL) ALL', ask=True)
    check_staged(here, user='admin', play={'become': True}, variables={'ansible_become_password': PASSWORD})


@pytest.mark.parametrize('password', [False, True], ids=['no password', 'with a password'])
def test_doas(site, password):
    here = site('amd64')
    put(here, 'become_plugins', 'lab_doas', DOAS)
    set_password(here.node, 'admin', PASSWORD)
    rule = here.node.path('/etc/doas.conf')
    rule.write_text('permit admin as root\n' if password else 'permit nopass admin as root\n')
    rule.chmod(0o400)
    check_staged(here, user='admin', play={'become': True, 'become_method': 'lab_doas'},
                 variables={'ansible_become_password': PASSWORD} if password else {})


def test_su_with_a_password(site):
    here = site('amd64')
    set_password(here.node, 'root', PASSWORD)
    check_staged(here, user='admin', play={'become': True, 'become_method': 'su'},
                 variables={'ansible_become_password': PASSWORD})


# --- which node, and what in it


def test_each_item_of_a_loop_over_delegate_to_lands_on_its_own_node(lab, tmp_path, extra_nodes, short):
    nodes = [*extra_nodes('amd64', 2), *extra_nodes('arm64'), *extra_nodes('busybox')]
    release = lab.release(tmp_path / 'airgap', layout='flat', version=NEW, size=2 * MEGABYTE, images_size=1000,
                          arches=['amd64', 'arm64'])
    for node in nodes:
        node.path(K3S).parent.mkdir(parents=True, exist_ok=True)
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes)
    plays = [{'hosts': 'localhost', 'gather_facts': False,
              'vars': {'k3s_artifact_dir': str(tmp_path / 'airgap')},
              'tasks': [{'name': 'stage', 'copy': {'src': str(release.binaries['amd64']), 'dest': K3S},
                         'delegate_to': '{{ item }}', 'loop': [node.name for node in nodes]}]}]
    run = support.play(tmp_path, plays, hosts=inventory, env={'ANSIBLE_SSH_CONTROL_PATH_DIR': str(short)})
    print(run.output)
    assert run.rc == 0
    for node in nodes:
        assert support.sha256(node.path(K3S)) == support.sha256(release.binaries[node.arch]), node
        assert [path.name for path in node.path(K3S).parent.iterdir()] == ['k3s']


def test_each_item_of_a_loop_over_ports_lands_on_its_own_node(lab, tmp_path, extra_nodes, short):
    nodes = [*extra_nodes('amd64', 2), *extra_nodes('arm64')]
    release = lab.release(tmp_path / 'airgap', layout='flat', version=NEW, size=2 * MEGABYTE, images_size=1000,
                          arches=['amd64', 'arm64'])
    for node in nodes:
        node.path(K3S).parent.mkdir(parents=True, exist_ok=True)
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes[:1])
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'stage', 'copy': {'src': str(release.binaries['amd64']), 'dest': K3S},
         'vars': {'ansible_port': '{{ item }}'}, 'loop': [node.port for node in nodes]}]}]
    run = support.play(tmp_path, plays, hosts=inventory, env={'ANSIBLE_SSH_CONTROL_PATH_DIR': str(short)})
    print(run.output)
    assert run.rc == 0
    for node in nodes:
        assert support.sha256(node.path(K3S)) == support.sha256(release.binaries[node.arch]), node


def test_two_runs_with_equal_process_numbers_and_one_control_directory_reach_their_own_nodes(lab, tmp_path, extra_nodes,
                                                                                             short):
    """As two containers do: each has a process namespace of its own, so that each run's worker has the same number."""
    slow, fast = extra_nodes('slow')[0], extra_nodes('amd64')[0]
    slow.throttle('10mbit')
    release = lab.release(tmp_path / 'airgap', layout='flat', version=NEW, size=BIG, images_size=1000, arches=['amd64'])
    source = release.binaries['amd64']

    def stage(node):
        folder = tmp_path / node.name
        folder.mkdir()
        node.path(K3S).parent.mkdir(parents=True, exist_ok=True)
        support.install_drop_in(folder)
        inventory = lab.inventory(folder / 'inventory.yml', [node])
        (folder / 'site.yml').write_text(json.dumps([{'hosts': 'all', 'gather_facts': False,
                                                      'tasks': [{'copy': {'src': str(source), 'dest': K3S}}]}]))
        return subprocess.run(['unshare', '--pid', '--fork', '--mount-proc', str(support.PROGRAMS / 'ansible-playbook'),
                               '-i', str(inventory), 'site.yml'],
                              cwd=folder, env=support.environment(folder, ANSIBLE_SSH_CONTROL_PATH_DIR=str(short)),
                              text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(stage, slow)
        system.wait_until(lambda: list(slow.path(K3S).parent.glob('.k3s*')) or first.done(), 60,
                          'The first run does not begin.')
        second = pool.submit(stage, fast)
        for done in (first.result(), second.result()):
            assert done.returncode == 0, done.stdout
    for node in (slow, fast):
        assert support.sha256(node.path(K3S)) == support.sha256(source), node
        assert [path.name for path in node.path(K3S).parent.iterdir()] == ['k3s'], node


def test_a_connection_plugin_that_leads_into_a_container_leads_there(site):
    here = site('amd64')
    container = here.node.path('/container')
    for name in ('usr', 'proc', 'dev'):
        (container / name).mkdir(parents=True)
        system.mount(here.node.path(f'/{name}'), container / name, bind=True)
    for name in ('bin', 'lib', 'lib64', 'sbin'):
        (container / name).symlink_to(f'usr/{name}')
    for name in ('tmp', 'root', 'etc', 'opt'):
        (container / name).mkdir()
    put(here, 'connection_plugins', 'inside', INSIDE)
    run = here.play(variables={'ansible_connection': 'inside', 'k3s_artifact_dest': '/opt/k3s'})
    print(run.output)
    assert run.rc == 0
    inner = container / 'opt'
    assert support.sha256(inner / 'k3s') == here.new and [path.name for path in inner.iterdir()] == ['k3s']
    assert support.sha256(here.path) == here.old, 'the node itself keeps what it had'
    assert not here.node.path('/opt/k3s').exists() and not list(here.path.parent.glob('.k3s*'))


# --- the user's ssh


def test_a_connection_that_is_cut_at_3_megabytes_is_made_again(site):
    here = site('amd64', BIG)
    here.remember()
    with Proxy(here.node, cuts=[3 * MEGABYTE]) as proxy:
        run = here.play(of_host=proxy.variables, env={'ANSIBLE_SSH_RETRIES': '3'})
    print(run.output)
    here.check_repaired(run)


def master(here, path):
    """Open a connection by hand that others can share."""
    *command, login = here.node.ssh()
    subprocess.run([*command, '-o', 'ControlMaster=yes', '-o', f'ControlPath={path}', '-o', 'ControlPersist=120', '-fN',
                    login], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize('way',
                         ['ansible_ssh_common_args', 'ansible_control_path', 'the connection that an earlier run left'])
def test_where_nobody_can_log_in_again_the_open_connection_is_used(site, way):
    """As with a second factor: what is open serves, whatever the user has told of it."""
    here = site('amd64', BIG)
    here.remember()
    path = Path(here.controls) / 'by-hand'
    common = ['-o', f'ControlPath={path}', '-o', 'ControlMaster=auto', *HOST_KEY_OPTIONS]
    variables = {'ansible_ssh_common_args': ' '.join(common)}
    if way == 'ansible_control_path':
        variables = {'ansible_control_path': str(path)}
    if way.startswith('the connection'):
        variables = {}
        assert here.play(before=[{'hosts': 'all', 'gather_facts': False, 'tasks': [{'ansible.builtin.raw': 'true'}]}],
                         words=('--tags', 'none')).rc == 0
        assert here.play(arguments={'src': '/etc/hostname', 'dest': '/tmp/first'}).rc == 0
        here.node.path('/tmp/first').unlink()
    else:
        master(here, path)
    here.node.stop_sshd()
    try:
        run = here.play(variables=variables)
        print(run.output)
    finally:
        here.node.start_sshd()
    here.check_repaired(run)


def test_a_forwarding_that_must_not_fail_does_not_fail_twice(site):
    here = site('amd64')
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    check_staged(here,
                 variables={'ansible_ssh_extra_args': f'-R 127.0.0.1:{port}:127.0.0.1:9 -o ExitOnForwardFailure=yes'})


@pytest.mark.parametrize('args', ['-o ControlPath=none', '-o ControlMaster=no', '-S none', '-o ControlPersist=no'])
def test_a_user_without_shared_connections(site, args):
    here = site('amd64')
    check_staged(here, variables={'ansible_ssh_extra_args': args})


@pytest.mark.parametrize('folder', ['with a space', "{{ 'a' + 'b' }}"])
def test_a_control_directory_with_an_unusual_name(site, folder):
    here = site('amd64')
    check_staged(here, variables={'ansible_control_path_dir': f'{here.controls}/{folder}'},
                 env={'ANSIBLE_SSH_CONTROL_PATH_DIR': here.controls})


def test_a_node_behind_a_jump_host_that_a_configuration_file_names(site, extra_nodes, lab):
    here = site('amd64')
    jump = lab.nodes['arm64'] if 'arm64' in lab.nodes else extra_nodes('arm64')[0]
    jump.reset()
    config = here.folder / 'ssh_config'
    common = f'User root\nIdentityFile {lab.key_file}\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null'
    config.write_text(f'Host jump\nHostName {jump.host}\nPort {jump.port}\n{common}\n'
                      f'Host node\nHostName {here.node.host}\nProxyJump jump\n{common}\n')
    check_staged(here, variables={'ansible_ssh_common_args': f'-F {config}'}, of_host={'ansible_host': 'node'})


def test_an_address_of_ipv6(site):
    here = site('amd64')
    with Proxy(here.node, address='::1') as proxy:
        check_staged(here, of_host=proxy.variables)


@pytest.mark.parametrize('mechanism', ['sshpass', 'ssh_askpass'])
def test_a_login_with_a_password(site, mechanism):
    here = site('amd64')
    check_staged(here, user='admin', play={'become': True}, variables={
        'ansible_password': here.lab.password, 'ansible_ssh_password_mechanism': mechanism,
        'ansible_ssh_private_key_file': ''})


def test_a_login_that_becomes_another_user_for_each_item(site):
    here = site('amd64')
    users = ['admin', 'guest', 'root']
    run = here.play(user='admin', play={'become': True, 'tasks': [
        {'name': 'stage', 'copy': {'src': str(here.source)}, 'become_user': '{{ item }}', 'loop': users,
         'vars': {'k3s_artifact_dest': '/{{ "root" if item == "root" else "home/" + item }}/k3s'}}]})
    print(run.output)
    assert run.rc == 0
    for user, place in zip(users, ('/home/admin/k3s', '/home/guest/k3s', '/root/k3s')):
        assert support.sha256(here.node.path(place)) == here.new
        assert here.node.run(f'stat -c %U {place}').stdout.strip() == user
