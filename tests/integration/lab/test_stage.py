# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job on real nodes: K3s-sized binaries of three architectures, over SSH, to each node its own."""

import shutil
import tempfile
from pathlib import Path

import pytest

import support

ARCHS = {'amd64': 'amd64', 'arm64': 'arm64', 'armhf': 'arm'}  # by node
VERSION = 'v1.31.4+k3s1'
BIN = '/usr/local/bin'


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


def no_folder(_lab, node):
    node.path(BIN).rmdir()
    yield
    node.path(BIN).mkdir()


def programs_are_forbidden(_lab, node):
    node.no_exec(BIN)
    yield
    node.remount(BIN, 'exec')


def read_only(_lab, node):
    node.read_only(BIN)
    yield
    node.remount(BIN, 'rw')


def immutable_folder(_lab, node):
    node.immutable(BIN)
    yield
    node.immutable(BIN, on=False)


def full_disk(_lab, node):
    node.mount_tmpfs(BIN, '80m')
    node.fill(BIN, leave=1_000_000)
    yield
    (node.path(BIN) / 'filler').unlink()


def data_folder_leads_nowhere(_lab, node):
    node.path('/var/lib/rancher').symlink_to('/nowhere')
    yield
    node.path('/var/lib/rancher').unlink()


def directory_at_the_install_path(_lab, node):
    (node.path(BIN) / 'k3s').mkdir()
    yield
    (node.path(BIN) / 'k3s').rmdir()


def newer_k3s(lab, node):
    with tempfile.TemporaryDirectory() as folder:
        newer = lab.release(Path(folder), layout='flat', version='v1.99.0+k3s1', size=1_000_000, images_size=1000,
                            arches=[node.arch])
        shutil.copy(newer.binaries[node.arch], node.path(BIN) / 'k3s')
    (node.path(BIN) / 'k3s').chmod(0o755)
    yield
    (node.path(BIN) / 'k3s').unlink()


def unreachable(_lab, node):
    node.stop_sshd()
    yield
    node.start_sshd()


@pytest.mark.parametrize('fault', [
    no_folder, programs_are_forbidden, read_only, immutable_folder, full_disk, data_folder_leads_nowhere,
    directory_at_the_install_path, newer_k3s, unreachable], ids=lambda fault: fault.__name__)
def test_one_node_that_cannot_be_served_keeps_every_file_from_every_node(tmp_path, lab, nodes, airgap, fault):
    """What preflight finds, and what only the trial run of the binary on the node finds."""
    broken = fault(lab, nodes['arm64'])
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values())
    arguments = ('airgap.k3s.stage', '-e', f'k3s_artifact_dir={airgap}', '-e', 'k3s_artifact_hosts=all')
    next(broken)
    before = {node.name: node.path(BIN).is_dir() and sorted(path.name for path in node.path(BIN).glob('[!.]*'))
              for node in nodes.values()}
    try:
        run = support.play(tmp_path, *arguments, hosts=inventory, home='collection')
        assert run.rc != 0, run.output
        for node in nodes.values():
            assert before[node.name] == (node.path(BIN).is_dir()
                                         and sorted(path.name for path in node.path(BIN).glob('[!.]*'))), run.output
            assert list(node.path('/var/lib').rglob('[!.]*.tar*')) == []
    finally:
        assert next(broken, 'mended') == 'mended'
    again = support.play(tmp_path, *arguments, hosts=inventory, home='collection')
    assert again.rc == 0, again.output
    assert_each_has_its_own(nodes)


def test_a_binary_with_its_version_in_its_name_is_replaced_by_that_of_the_node(tmp_path, lab, nodes):
    """As people keep several releases side by side: the task names the file of one architecture for all nodes."""
    made = lab.release(tmp_path / 'made', layout='flat', version=VERSION, size=2_000_000, images_size=1000)
    (tmp_path / 'airgap').mkdir()
    for arch in ARCHS.values():
        shutil.copy(made.binaries[arch], tmp_path / 'airgap' / f'k3s-{VERSION}-{arch}')
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values())
    plays = copy_task(tmp_path / 'airgap', src=f'{tmp_path}/airgap/k3s-{VERSION}-amd64')
    run = support.play(tmp_path, plays, hosts=inventory)
    assert run.rc == 0, run.output
    assert_each_has_its_own(nodes)
    (tmp_path / 'airgap' / f'k3s-{VERSION}-arm').unlink()
    nodes['armhf'].reset()
    run = support.play(tmp_path, plays, hosts=inventory)
    assert run.rc == 2 and not nodes['armhf'].path('/usr/local/bin/k3s').exists()


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
    assert "armhf: it says that it is 'armv7l', its facts say aarch64" in run.result('armhf', 'stage')['msg']
    assert not nodes['armhf'].path('/usr/local/bin/k3s').exists()
