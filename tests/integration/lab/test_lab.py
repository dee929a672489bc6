# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab tests itself: the nodes are what they claim to be, and faults happen as ordered."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import LabError, parse

ARCHES = ('amd64', 'arm64', 'armhf')
ELF_MACHINE = {'amd64': (2, 62), 'arm64': (2, 183), 'armhf': (1, 40)}
MACHINE = {'amd64': 'x86_64', 'arm64': 'aarch64', 'armhf': 'armv7l'}
MEGABYTE = 1000 * 1000


def ansible(inventory, *words):
    """Runs the `ansible` command beside the Python that runs the tests; returns its CompletedProcess.

    The command itself, since ansible-core 2.19 answers ssh's password prompt by calling its own argv[0] again.
    """
    environment = dict(os.environ, ANSIBLE_NOCOLOR='1')
    command = Path(sys.executable).with_name('ansible')
    return subprocess.run([str(command), '-i', str(inventory), *words], env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def elf(path):
    """The class and machine in an ELF header."""
    header = path.resolve().read_bytes()[:20]
    assert header[:4] == b'\x7fELF'
    return header[4], int.from_bytes(header[18:20], 'little')


def copy_over_sftp(node, source, target):
    """Puts a file on a node with the sftp command."""
    login = node.ssh()
    options = [word for word in login[1:-1] if word not in ('-p', str(node.port))]
    subprocess.run(['sftp', '-q', *options, '-P', str(node.port), '-b', '-', login[-1]],
                   input=f'put {source} {target}\n',
                   stdout=subprocess.DEVNULL, text=True, check=True)


@pytest.mark.parametrize('name', ARCHES)
def test_a_node_is_of_its_architecture(nodes, name):
    node = nodes[name]
    assert node.run('uname -m').stdout == f'{MACHINE[name]}\n'
    assert node.machine == MACHINE[name]
    for program in ('/bin/sh', '/usr/bin/python3'):
        path = node.path(program)
        assert elf(path.with_name(os.readlink(path)) if path.is_symlink() else path) == ELF_MACHINE[name]


def test_ansible_reaches_every_node_with_python(lab, nodes, tmp_path):
    inventory = lab.inventory(tmp_path / 'hosts.yml', nodes=nodes.values())
    ping = ansible(inventory, 'all', '-m', 'ansible.builtin.ping')
    assert ping.stdout.count('"ping": "pong"') == 3, ping.stdout
    facts = ansible(inventory, 'all', '-m', 'ansible.builtin.setup', '-a',
                    'gather_subset=!all filter=ansible_architecture')
    for node in nodes.values():
        assert f'"ansible_architecture": "{node.machine}"' in facts.stdout, facts.stdout


def test_ansible_reaches_every_node_raw(lab, nodes, tmp_path):
    inventory = lab.inventory(tmp_path / 'hosts.yml', nodes=nodes.values())
    raw = ansible(inventory, 'all', '-m', 'ansible.builtin.raw', '-a', 'uname -m')
    assert sorted(line for line in raw.stdout.split() if line in MACHINE.values()) == sorted(MACHINE.values())


@pytest.mark.parametrize('name', ARCHES)
def test_a_file_put_over_sftp_arrives(nodes, name, tmp_path):
    content = os.urandom(3 * MEGABYTE)
    (tmp_path / 'file').write_bytes(content)
    copy_over_sftp(nodes[name], tmp_path / 'file', '/usr/local/bin/file')
    assert nodes[name].path('/usr/local/bin/file').read_bytes() == content


def test_ansible_copies_a_file_through_sudo(lab, nodes, tmp_path):
    (tmp_path / 'k3s').write_bytes(os.urandom(MEGABYTE))
    inventory = lab.inventory(tmp_path / 'hosts.yml', nodes=nodes.values(), user=lab.admin)
    done = ansible(inventory, 'all', '--become', '-m', 'ansible.builtin.copy',
                   '-a', f'src={tmp_path}/k3s dest=/usr/local/bin/k3s mode=0755')
    assert done.returncode == 0, done.stdout
    for node in nodes.values():
        target = node.path('/usr/local/bin/k3s')
        assert target.read_bytes() == (tmp_path / 'k3s').read_bytes()
        assert (target.stat().st_uid, target.stat().st_mode & 0o777) == (0, 0o755)


@pytest.mark.parametrize('name', ARCHES)
def test_sudo_works_for_admin_and_not_for_guest(lab, nodes, name):
    node = nodes[name]
    assert node.run('sudo -n id -u', user=lab.admin).stdout == '0\n'
    assert node.run('id -un', user=lab.guest).stdout == f'{lab.guest}\n'
    assert node.run('sudo -n id -u', user=lab.guest, check=False).returncode != 0


def test_admin_may_log_in_by_password(lab, amd64, tmp_path):
    inventory = lab.inventory(tmp_path / 'hosts.yml', nodes=[amd64], user=lab.admin, password=True,
                              ansible_ssh_extra_args='-o PubkeyAuthentication=no -o ControlPath=none')
    ping = ansible(inventory, 'all', '-m', 'ansible.builtin.ping')
    assert '"ping": "pong"' in ping.stdout, ping.stdout


def test_reset_makes_a_node_as_new(nodes):
    node = nodes['amd64']
    node.run('touch /usr/local/bin/k3s; rm /usr/bin/env; (sleep 1000 >/dev/null 2>&1 &)')
    assert node.path('/usr/local/bin/k3s').exists() and not node.path('/usr/bin/env').exists()
    node.reset()
    assert not node.path('/usr/local/bin/k3s').exists() and node.path('/usr/bin/env').exists()
    assert not node.run('pgrep sleep', check=False).stdout


def test_a_node_does_not_see_another_ones_files_or_processes(nodes):
    nodes['amd64'].run('touch /tmp/mine; (sleep 1000 >/dev/null 2>&1 &)')
    assert not nodes['arm64'].path('/tmp/mine').exists()
    assert not nodes['arm64'].run('pgrep -f "sleep 1000$"', check=False).stdout
    assert nodes['arm64'].run('hostname').stdout == 'arm64\n'


def test_a_stopped_sshd_refuses_and_a_started_one_accepts(amd64):
    amd64.stop_sshd()
    assert amd64.run('true', check=False).returncode == 255
    amd64.start_sshd()
    assert amd64.run('true').returncode == 0


def test_cut_connections_end_their_sessions_but_not_what_runs_in_the_background(amd64, arm64):
    sessions = [subprocess.Popen([*node.ssh(), 'echo up; exec sleep 1000'], stdout=subprocess.PIPE)
                for node in (amd64, arm64)]
    for session in sessions:
        assert session.stdout.readline() == b'up\n'
    amd64.run('(nohup tail -f /dev/null >/dev/null 2>&1 &)')
    assert amd64.kill_connections() > 0
    assert sessions[0].wait(10) == 255
    assert sessions[1].poll() is None
    assert amd64.run('pgrep -x tail').stdout
    arm64.kill_connections()
    for session in sessions:
        session.wait(10)
        session.stdout.close()


def test_a_small_file_system_gets_full(amd64):
    amd64.mount_tmpfs('/usr/local/bin', '1m')
    amd64.fill('/usr/local/bin', leave=8192)
    assert 'No space left' in amd64.run('head -c 100000 /dev/zero > /usr/local/bin/k3s', check=False).stderr
    amd64.reset()
    assert amd64.run('head -c 2000000 /dev/zero > /usr/local/bin/k3s').returncode == 0


def test_only_a_small_file_system_is_filled(amd64):
    with pytest.raises(LabError, match='mount_tmpfs'):
        amd64.fill('/usr/local/bin')


def test_a_directory_can_be_read_only_or_without_programs(amd64):
    amd64.read_only('/usr/local')
    assert 'Read-only' in amd64.run('touch /usr/local/bin/k3s', check=False).stderr
    amd64.unmount('/usr/local')
    amd64.run('cp /bin/true /usr/local/bin/k3s')
    amd64.no_exec('/usr/local')
    assert 'ermission denied' in amd64.run('/usr/local/bin/k3s', check=False).stderr
    amd64.remount('/usr/local', 'exec')
    amd64.run('/usr/local/bin/k3s')


def test_a_file_can_be_immutable(amd64):
    amd64.run('echo old > /usr/local/bin/k3s')
    amd64.immutable('/usr/local/bin/k3s')
    assert amd64.run('rm -f /usr/local/bin/k3s', check=False).returncode != 0
    amd64.reset()
    assert not amd64.path('/usr/local/bin/k3s').exists()


@pytest.mark.parametrize('name', ARCHES)
def test_a_release_binary_runs_on_its_node_and_no_other(lab, nodes, name, tmp_path):
    release = lab.release(tmp_path, size=2 * MEGABYTE, images_size=1000)
    node = nodes[name]
    for arch, source in release.binaries.items():
        assert source.stat().st_size == 2 * MEGABYTE
        target = node.path(f'/usr/local/bin/{arch}')
        target.write_bytes(source.read_bytes())
        target.chmod(0o755)
    said = node.run(f'/usr/local/bin/{node.arch} --version').stdout
    assert said == 'k3s version v1.31.4+k3s1 (abcdef12)\ngo version go1.22.9\n'
    node.run(f'(/usr/local/bin/{node.arch} server >/dev/null 2>&1 &)')
    assert node.run(f'pgrep -f "/usr/local/bin/{node.arch} server$"').stdout


@pytest.mark.parametrize('layout', ['per-arch', 'flat'])
def test_a_release_has_the_names_and_checksums_of_k3s(lab, tmp_path, layout):
    release = lab.release(tmp_path, layout=layout, size=2 * MEGABYTE, images_size=1000)
    assert {path.name for path in release.binaries.values()} == {'k3s', 'k3s-arm64', 'k3s-armhf'}
    assert elf(release.binaries['arm']) == ELF_MACHINE['armhf']
    for arch, checksums in release.checksums.items():
        assert checksums.parent == (tmp_path / arch if layout == 'per-arch' else tmp_path)
        lines = checksums.read_text(encoding='ascii').splitlines()
        assert [line.split()[1] for line in lines] == [release.images[arch].name, release.binaries[arch].name]
        subprocess.run(['sha256sum', '--quiet', '-c', checksums.name], cwd=checksums.parent, check=True)


def test_a_busybox_node_has_busybox_and_nothing_else(extra_nodes, tmp_path):
    node, = extra_nodes('busybox')
    assert 'BusyBox' in node.run('readlink -f /bin/sh; sha256sum --help 2>&1; uname -m').stdout
    assert node.run('command -v python3 bash perl sudo', check=False).stdout == ''
    (tmp_path / 'file').write_bytes(b'content')
    copy_over_sftp(node, tmp_path / 'file', '/usr/local/bin/file')
    assert node.path('/usr/local/bin/file').read_bytes() == b'content'


def test_a_slow_node_is_slow(extra_nodes, tmp_path):
    node, = extra_nodes('slow')
    (tmp_path / 'file').write_bytes(os.urandom(5 * MEGABYTE))
    start = time.monotonic()
    copy_over_sftp(node, tmp_path / 'file', '/tmp/file')
    assert 1.5 < time.monotonic() - start < 10
    node.throttle('1gbit')
    start = time.monotonic()
    copy_over_sftp(node, tmp_path / 'file', '/tmp/file')
    assert time.monotonic() - start < 1.5


def test_a_path_is_followed_within_the_node(amd64):
    amd64.run('ln -s /usr/local/bin /tmp/link; ln -s ../../../../../../usr /tmp/up; ln -s /etc/hostname /tmp/last')
    assert amd64.path('/tmp/link/k3s') == amd64.root / 'usr/local/bin/k3s'
    assert amd64.path('/tmp/up/local') == amd64.root / 'usr/local'
    assert amd64.path('/tmp/last') == amd64.root / 'tmp/last'


def test_the_inventory_keeps_ansibles_own_ssh_args(lab, tmp_path):
    inventory = json.loads(lab.inventory(tmp_path / 'hosts.json', airgap_dir='/srv').read_text(encoding='utf-8'))
    assert inventory['all']['vars']['airgap_dir'] == '/srv'
    assert not [key for key in inventory['all']['vars'] if key == 'ansible_ssh_args']


def test_a_spec_lists_kinds_counts_and_rates():
    assert parse('amd64*2,slow,slow:rate=5mbit') == [('amd64', None), ('amd64', None),
                                                     ('slow', '20mbit'), ('slow', '5mbit')]
    for wrong in ('', 'mips', 'amd64:rate=5mbit', 'amd64*x', 'amd64 arm64'):
        with pytest.raises(LabError, match='no kind of node'):
            parse(wrong)
