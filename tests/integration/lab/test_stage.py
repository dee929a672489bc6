# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job on real nodes: K3s-sized binaries of three architectures, over SSH, to each node its own."""

import pytest

import support

ARCHS = {'amd64': 'amd64', 'arm64': 'arm64', 'armhf': 'arm'}  # by node
VERSION = 'v1.31.4+k3s1'


@pytest.fixture(name='airgap', scope='module')
def fixture_airgap(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp('airgap')
    lab.release(folder, layout='per-arch', version=VERSION)
    return folder


def copy_task(airgap, **arguments):
    """A play with the task of k3s-ansible that distributes the binary, reached through the drop-in files."""
    return [{'hosts': 'all', 'gather_facts': True, 'gather_subset': ['!all', '!min', 'platform'], 'tasks': [
        {'name': 'stage', 'ansible.legacy.copy': {'src': f'{airgap}/k3s', 'dest': '/usr/local/bin/k3s',
                                                  'mode': '0755', **arguments}}]}]


def assert_each_has_its_own(nodes):
    for name, arch in ARCHS.items():
        binary = nodes[name].path('/usr/local/bin/k3s')
        assert support.elf_arch(binary) == arch
        assert binary.stat().st_mode & 0o7777 == 0o755
        assert nodes[name].run('/usr/local/bin/k3s --version').stdout.startswith(f'k3s version {VERSION}')
        assert [path.name for path in binary.parent.glob('.*')] == []


def test_stage_gives_each_architecture_its_own_files_over_ssh(tmp_path, lab, nodes, airgap):
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values())
    arguments = ('airgap.k3s.stage', '-e', f'k3s_artifact_dir={airgap}', '-e', 'k3s_artifact_hosts=all')
    run = support.play(tmp_path, *arguments, hosts=inventory, home='collection')
    print(run.output)
    assert run.rc == 0, run.output
    assert_each_has_its_own(nodes)
    for name, arch in ARCHS.items():
        images = nodes[name].path('/var/lib/rancher/k3s/agent/images')
        assert [path.name for path in images.iterdir()] == [f'k3s-airgap-images-{arch}.tar.zst']
        known = run.result(name, 'Put everything in place')['k3s_artifact']
        assert (known['machine'], known['version']) == (nodes[name].machine, VERSION)
        assert {file['came'] for file in known['files']} == {'pushed'}
        assert f'sha256sum-{arch}.txt' in known['files'][0]['verified']
    again = support.play(tmp_path, *arguments, hosts=inventory, home='collection')
    assert again.rc == 0, again.output
    assert again.changed() == 0


@pytest.mark.parametrize('fault', ['no folder', 'noexec'])
def test_one_node_that_cannot_be_served_keeps_every_file_from_every_node(tmp_path, lab, nodes, airgap, fault):
    """What preflight finds, and what only the trial run of the binary on the node finds."""
    bad = nodes['arm64']
    if fault == 'no folder':
        bad.path('/usr/local/bin').rename(bad.path('/usr/local/nobin'))
        undo = '[ -d /usr/local/bin ] || mv /usr/local/nobin /usr/local/bin'
    else:
        assert bad.run('mount --bind /usr/local/bin /usr/local/bin && mount -o remount,bind,noexec '
                       '/usr/local/bin').returncode == 0
        undo = 'umount /usr/local/bin'
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values())
    arguments = ('airgap.k3s.stage', '-e', f'k3s_artifact_dir={airgap}', '-e', 'k3s_artifact_hosts=all')
    try:
        run = support.play(tmp_path, *arguments, hosts=inventory, home='collection')
    finally:
        bad.run(undo)
    assert run.rc != 0
    for node in nodes.values():
        assert not node.path('/usr/local/bin/k3s').exists()
        assert list(node.path('/var/lib/rancher').rglob('*.tar*')) == []
    again = support.play(tmp_path, *arguments, hosts=inventory, home='collection')
    assert again.rc == 0, again.output
    assert_each_has_its_own(nodes)


@pytest.mark.parametrize('login', ['root', 'admin', 'admin with a password'])
def test_a_copy_task_of_an_existing_playbook_gives_each_architecture_its_own_binary(tmp_path, lab, nodes, login):
    airgap = tmp_path / 'airgap'
    lab.release(airgap, layout='flat', version=VERSION)
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values(), user=login.split()[0],
                              password='password' in login)
    plays = copy_task(airgap, owner='root', group='root')
    plays[0]['become'] = True
    run = support.play(tmp_path, plays, hosts=inventory)
    assert run.rc == 0, run.output
    assert_each_has_its_own(nodes)
    again = support.play(tmp_path, plays, hosts=inventory)
    assert again.changed() == 0


def test_the_options_that_core_implements_give_each_architecture_its_own_binary(tmp_path, lab, nodes, airgap):
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values())
    for node in nodes.values():
        node.path('/usr/local/bin').mkdir(parents=True, exist_ok=True)
        node.path('/usr/local/bin/k3s').write_text('what was there before')
    run = support.play(tmp_path, copy_task(airgap, backup=True, validate='%s --version'), hosts=inventory)
    assert run.rc == 0, run.output
    assert_each_has_its_own(nodes)
    for name, node in nodes.items():
        backup = run.result(name, 'stage')['backup_file']
        assert node.path(backup).read_text() == 'what was there before'


def test_a_running_k3s_keeps_running_from_the_old_file(tmp_path, lab, nodes, airgap):
    """A K3s that runs keeps the old file busy; the new one arrives under another name and is renamed over it."""
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values())
    old = tmp_path / 'old'
    lab.release(old, version='v1.30.0+k3s1')
    assert support.play(tmp_path, copy_task(old), hosts=inventory).rc == 0
    for node in nodes.values():
        node.run('nohup /usr/local/bin/k3s server >/dev/null 2>&1 & echo $! >/run/k3s.pid')
    run = support.play(tmp_path, copy_task(airgap), hosts=inventory)
    assert run.rc == 0, run.output
    assert_each_has_its_own(nodes)
    for node in nodes.values():
        assert node.run('kill -0 "$(cat /run/k3s.pid)" && echo runs').stdout.strip() == 'runs'


def test_a_busybox_node_without_python_is_staged(tmp_path, lab, extra_nodes, airgap):
    node, = extra_nodes('busybox')
    inventory = lab.inventory(tmp_path / 'inventory.yml', [node])
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'stage', 'copy': {'src': f'{airgap}/k3s', 'dest': '/usr/local/bin/k3s',
                                   'owner': 'root', 'mode': '0755'}},
        {'name': 'images', 'copy': {'src': '{{ item }}', 'dest': '/var/lib/rancher/k3s/agent/images/'},
         'with_fileglob': [f'{airgap}/*.tar.zst', f'{airgap}/amd64/*.tar.zst']}]}]
    node.path('/usr/local/bin').mkdir(parents=True, exist_ok=True)
    run = support.play(tmp_path, plays, hosts=inventory)
    assert run.rc == 0, run.output
    assert support.elf_arch(node.path('/usr/local/bin/k3s')) == 'amd64'
    assert ([path.name for path in node.path('/var/lib/rancher/k3s/agent/images').iterdir()]
            == ['k3s-airgap-images-amd64.tar.zst'])
    assert support.play(tmp_path, plays, hosts=inventory).changed() == 0


def test_a_node_whose_facts_are_stale_is_caught_before_a_byte_is_sent(tmp_path, lab, nodes, airgap):
    inventory = lab.inventory(tmp_path / 'inventory.yml', [nodes['armhf']])
    plays = copy_task(airgap)
    plays[0]['gather_facts'] = False
    plays[0]['tasks'].insert(0, {'ansible.builtin.set_fact': {'ansible_architecture': 'aarch64'}})
    run = support.play(tmp_path, plays, hosts=inventory)
    assert run.rc == 2
    assert "armhf says that it is 'armv7l', its facts say aarch64" in run.result('armhf', 'stage')['msg']
    assert not nodes['armhf'].path('/usr/local/bin/k3s').exists()
