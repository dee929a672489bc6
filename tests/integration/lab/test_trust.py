# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What docs/security.md promises: hostile nodes get nothing but their artifacts, and preflight only looks."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import support

VERSION = 'v1.31.4+k3s1'
K3S = '/usr/local/bin/k3s'
CANARY = 'the canary sings 4711'
SMALL = 1000 * 1000
# What a node may say that it is. {canary} is the path of a file on the controller that no node may get.
LIES = (
    '../../secret/k3s', '{canary}', 'x86_64/../../../secret/k3s',
    "{{{{ lookup('ansible.builtin.file', '{canary}') }}}}",
    "{{{{ lookup('ansible.builtin.pipe', 'cat {canary}') }}}}", "{{% include '{canary}' %}}", '$(cat {canary})',
    'x86_64\n@machine={canary}',
)
FACTS = 'import platform; platform.machine = lambda: {!r}\n'


@pytest.fixture(name='airgap')
def fixture_airgap(lab, tmp_path):
    """An artifact directory, and beside it a file that no node may get."""
    lab.release(tmp_path / 'airgap', layout='per-arch', version=VERSION, size=SMALL, images_size=1000)
    (tmp_path / 'secret').mkdir()
    canary = tmp_path / 'secret' / 'k3s'
    canary.write_bytes(support.elf('amd64', CANARY.encode()))
    return tmp_path / 'airgap'


def let_lie(node, text):
    """Let the node say *text*, in its facts and to whoever runs uname."""
    uname = node.path('/usr/bin/uname')
    uname.unlink()
    uname.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(text)}\n")
    uname.chmod(0o755)
    node.path('/usr/lib/python3/dist-packages/lies.pth').write_text(FACTS.format(text))


def traced(folder, environment, playbook, inventory, *arguments):
    """Run ansible-playbook under strace; return its output and every path that it or a child of its opened."""
    trace = folder / 'trace'
    command = ['strace', '-f', '-qq', '-y', '--seccomp-bpf', '-e', 'trace=open,openat,openat2', '-e',
               'signal=none', '-s', '4096',
               '-o', str(trace), str(support.PROGRAMS / 'ansible-playbook'), '-i', str(inventory),
               str(playbook), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=600, check=False)
    opens = re.findall(r'open(?:at2?)?\((?:AT_FDCWD<(.*?)>|\d+<(.*?)>|)(?:, )?"(.*?)"',
                       trace.read_text(errors='replace'))
    return done.stdout, {os.path.realpath(os.path.join(one or other or folder, path)) for one, other, path in opens}


def holds(root, text):
    """Tell which files below *root* hold *text*."""
    return subprocess.run(['grep', '-rlFa', '--', text, str(root)], stdout=subprocess.PIPE, text=True,
                          check=False).stdout.split()


def test_no_file_outside_the_artifact_directory_is_read_or_sent_whatever_a_node_says(tmp_path, short,
                                                                                     lab, extra_nodes, airgap):
    canary = tmp_path / 'secret' / 'k3s'
    honest, *liars = extra_nodes('amd64', 1 + len(LIES))
    for node, lie in zip(liars, LIES):
        let_lie(node, lie.format(canary=canary))
    staging = [
        {'name': 'binary', 'copy': {'src': f'{airgap}/k3s', 'dest': K3S, 'mode': '0755'}},
        {'name': 'images', 'copy': {'src': '{{ item }}', 'dest': '/var/lib/rancher/k3s/agent/images/'},
         'with_fileglob': [f'{airgap}/*/*.tar.zst']},
        {'name': 'terms', 'ansible.builtin.debug': {'msg': "{{ query('k3s_artifact', item) }}"},
         'loop': ['name', 'arch', 'binary', 'sha256', 'images', 'script', 'directory']}]
    staging = [{**task, 'ignore_errors': True, 'vars': {'k3s_artifact_dir': str(airgap)}} for task in staging]
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': staging},
             {'hosts': 'all', 'gather_facts': True, 'gather_subset': ['!all', '!min', 'platform'], 'tasks': staging}]
    (tmp_path / 'site.yml').write_text(json.dumps(plays))
    support.install_drop_in(tmp_path)
    inventory = lab.inventory(tmp_path / 'inventory.yml', [honest, *liars])
    environment = support.environment(tmp_path, ANSIBLE_SSH_CONTROL_PATH_DIR=str(short))
    output, opened = traced(tmp_path, environment, 'site.yml', inventory, '--forks', '9')
    print(output)
    artifacts = {str(path) for path in airgap.rglob('*') if path.is_file()}
    assert str(airgap / 'amd64' / 'k3s') in opened, 'the trace sees what is read'
    others = {path for path in opened if path.startswith(f'{tmp_path}/') and path not in artifacts
              and os.path.isfile(path)}
    allowed = ('home/', 'action_plugins/', 'lookup_plugins/', 'site.yml', 'inventory.yml')
    assert {path for path in others if not os.path.relpath(path, tmp_path).startswith(allowed)} == set()
    assert CANARY not in output
    assert holds(honest.directory / 'layer' / 'upper', CANARY) == []
    assert support.sha256(honest.path(K3S)) == support.sha256(airgap / 'amd64' / 'k3s')
    for node in liars:
        assert not node.path(K3S).exists() and not node.path('/var/lib/rancher').exists(), node
        assert holds(node.directory / 'layer' / 'upper', CANARY) == []


def test_the_tripwire_notices_a_file_that_is_read(tmp_path, short, lab, amd64, airgap):
    """The trace of a play that sends the canary shows it: what the test above does not find was not there."""
    canary = tmp_path / 'secret' / 'k3s'
    tasks = [{'name': 'send', 'ansible.builtin.copy': {'src': str(canary), 'dest': '/root/sent'}}]
    (tmp_path / 'site.yml').write_text(json.dumps([{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}]))
    inventory = lab.inventory(tmp_path / 'inventory.yml', [amd64])
    environment = support.environment(tmp_path, ANSIBLE_SSH_CONTROL_PATH_DIR=str(short))
    _output, opened = traced(tmp_path, environment, 'site.yml', inventory)
    assert str(canary) in opened
    assert [Path(path).name for path in holds(amd64.directory / 'layer' / 'upper', CANARY)] == ['sent']


def test_a_link_in_the_artifact_directory_is_the_users_own_word_except_for_a_name_from_k3s_binary_map(tmp_path, lab,
                                                                                                      amd64, airgap):
    outside = tmp_path / 'elsewhere'
    (airgap / 'amd64' / 'k3s').rename(outside)
    (airgap / 'amd64' / 'k3s').symlink_to(outside)
    inventory = lab.inventory(tmp_path / 'inventory.yml', [amd64], k3s_artifact_dir=str(airgap))
    plays = [{'hosts': 'all', 'gather_facts': False,
              'tasks': [{'name': 'stage', 'copy': {'src': 'k3s', 'dest': K3S, 'mode': '0755'}}]}]
    run = support.play(tmp_path, plays, '-e', json.dumps({'k3s_binary_map': {'x86_64': 'k3s'}}), hosts=inventory)
    assert run.rc == 2
    assert 'is a link that leaves the artifact directory' in run.result('amd64', 'stage')['msg']
    assert not amd64.path(K3S).exists()
    assert support.play(tmp_path, plays, hosts=inventory).rc == 0
    assert support.sha256(amd64.path(K3S)) == support.sha256(outside)


# --- preflight -------------------------------------------------------------------------------------------------------


def state(node):
    """Every file of a node with its size and time, without what a login and Ansible's own temporary folder leave."""
    upper = node.directory / 'layer' / 'upper'
    found = {str(path.relative_to(upper)): path for path in upper.rglob('*')}
    return {name: (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_mtime_ns) for name, path in found.items()
            if not path.is_dir() and not name.startswith(('run/', 'proc/', 'dev/'))}


def test_preflight_reports_every_real_node_and_writes_nothing_on_them(tmp_path, short, lab, nodes, extra_nodes, airgap):
    for arch in ('arm', 'arm64'):
        (airgap / arch / 'k3s-install.sh').unlink()  # core's copy takes its time under emulation
    same, different, dead = extra_nodes('amd64', 3)
    shutil.copy(airgap / 'amd64' / 'k3s', same.path(K3S))
    same.path(K3S).chmod(0o755)
    old = lab.release(tmp_path / 'old', layout='flat', version='v1.30.0+k3s1', size=SMALL,
                      images_size=1000, arches=['amd64'])
    shutil.copy(old.binaries['amd64'], different.path(K3S))
    shutil.copy(airgap / 'amd64' / 'k3s', nodes['arm64'].path(K3S))
    everyone = [same, different, dead, nodes['arm64'], nodes['armhf']]
    inventory = lab.inventory(tmp_path / 'inventory.yml', everyone, k3s_artifact_dir=str(airgap))
    dead.stop_sshd()
    before = {node.name: state(node) for node in everyone}
    words = ('airgap.k3s.preflight', '-e', f'k3s_artifact_report={tmp_path}/report', '-e', 'k3s_artifact_hosts=all')
    env = {'ANSIBLE_SSH_CONTROL_PATH_DIR': str(short)}
    run = support.play(tmp_path, *words, hosts=inventory, home='collection', env=env)
    print(run.output)
    assert run.rc == 4
    assert {node.name: state(node) for node in everyone} == before
    report = {row['host']: row for row in json.loads((tmp_path / 'report.json').read_text())['hosts']}
    assert [name for name, row in report.items() if row['problems']] == [dead.name]
    assert any(f'{dead.name} is unreachable' in problem for problem in report[dead.name]['problems'])
    binaries = {name: row['files'][0] for name, row in report.items() if row['files']}
    assert {name: (file['installed'], file['action']) for name, file in binaries.items()} == {
        same.name: ('same', 'nothing'), different.name: ('different', 'replace'),
        'arm64': ('wrong architecture', 'replace'),
        'armhf': ('absent', 'install')}
    assert {name: (row['machine'], row['arch']) for name, row in report.items() if row['files']} == {
        same.name: ('x86_64', 'amd64'), different.name: ('x86_64', 'amd64'), 'arm64': ('aarch64', 'arm64'),
        'armhf': ('armv7l', 'arm')}
    markdown = (tmp_path / 'report.md').read_text()
    for node in everyone:
        if node is dead:
            continue
        file, source = binaries[node.name], airgap / node.arch / support.BINARIES[node.arch]
        assert (file['source'], file['size'], file['sha256']) == (str(source), SMALL, support.sha256(source))
        assert file['verified'] == ['ELF header', f'sha256sum-{node.arch}.txt']
        assert file['bytes_to_send'] == (0 if node is same else SMALL)
        space = os.statvfs(node.path('/usr/local/bin'))
        assert abs(file['free'] - space.f_bavail * space.f_frsize) < 0.1 * file['free']
        assert node.name in markdown and file['sha256'] in markdown
    dead.start_sshd()
    assert support.play(tmp_path, *words, hosts=inventory, home='collection', env=env).rc == 0
    assert {node.name: state(node) for node in everyone} == before
