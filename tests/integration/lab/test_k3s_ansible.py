# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three ways of docs/k3s-ansible.md on real nodes: in one run each architecture gets its own binary and only its
own images."""

import support

# The role of the shape of k3s-ansible's, inside a collection.
role = support.load_plugin('tests/integration/test_k3s_ansible.py')

ARCHS = {'amd64': 'amd64', 'arm64': 'arm64', 'armhf': 'arm'}  # by node
GATHER = {'hosts': 'all', 'gather_subset': ['!all', '!min', 'platform'], 'roles': ['example.cluster.airgap']}
ASK = {'hosts': 'all', 'gather_facts': False, 'tasks': [
    {'name': 'ask', 'ansible.builtin.debug': {'msg': '{{ airgap_dir is undefined }}'}}]}
COMMON = {'machine': '{{ ansible_facts.architecture }}', 'node_root': ''}


def release(lab, folder, layout):
    """Make a small release; in folders of architectures the binary has the name under which k3s-ansible looks for
    it."""
    made = lab.release(folder, layout=layout, size=1_000_000, images_size=100_000)
    if layout == 'per-arch':
        for path in made.binaries.values():
            if path.name != 'k3s':
                (path.parent / 'k3s').symlink_to(path.name)
    return folder


def assert_each_has_its_own(nodes, run):
    assert run.rc == 0, run.output
    for name, arch in ARCHS.items():
        binary = nodes[name].path('/usr/local/bin/k3s')
        assert support.elf_arch(binary) == arch
        assert binary.stat().st_mode & 0o7777 == 0o755
        assert nodes[name].path('/usr/local/bin/k3s-install.sh').exists()
        images = nodes[name].path('/var/lib/rancher/k3s/agent/images')
        assert [path.name for path in images.iterdir()] == [f'k3s-airgap-images-{arch}.tar.zst']


def test_way_1_the_lookup_in_the_inventory_serves_an_unedited_role(tmp_path, lab, nodes):
    airgap = release(lab, tmp_path / 'airgap', 'per-arch')
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values(), k3s_artifact_dir=str(airgap),
                              airgap_dir=role.DIRECTORY, **COMMON)
    env = {'ANSIBLE_COLLECTIONS_PATH': role.write_role(tmp_path)}
    run = support.play(tmp_path, [GATHER, ASK], hosts=inventory, env=env)
    assert_each_has_its_own(nodes, run)
    assert [run.result(name, 'ask')['msg'] for name in nodes] == [False] * 3
    again = support.play(tmp_path, [GATHER, ASK], hosts=inventory, env=env)
    assert (again.rc, again.changed()) == (0, 0), again.output


def test_way_2_one_word_corrects_what_the_role_hands_over(tmp_path, lab, nodes):
    airgap = release(lab, tmp_path / 'airgap', 'flat')
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values(), airgap_dir=str(airgap), **COMMON)
    env = {'ANSIBLE_COLLECTIONS_PATH': role.write_role(tmp_path, 'ansible.legacy.copy')}
    run = support.play(tmp_path, [GATHER], hosts=inventory, env=env)
    assert_each_has_its_own(nodes, run)
    again = support.play(tmp_path, [GATHER], hosts=inventory, env=env)
    assert (again.rc, again.changed()) == (0, 0), again.output


def test_way_3_stage_leaves_nothing_to_send_for_the_role(tmp_path, lab, nodes):
    airgap = release(lab, tmp_path / 'airgap', 'flat')
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values(), airgap_dir=str(airgap), **COMMON)
    staged = support.play(tmp_path, 'airgap.k3s.stage', '-e', 'k3s_artifact_hosts=all',
                          hosts=inventory, home='collection')
    assert_each_has_its_own(nodes, staged)
    env = {'ANSIBLE_COLLECTIONS_PATH': role.write_role(tmp_path)}
    run = support.play(tmp_path, [GATHER], '--skip-tags', 'send', hosts=inventory, home='none', env=env)
    assert_each_has_its_own(nodes, run)
    assert run.changed() == 0
    assert [entry['task'] for entry in run.results if entry['status'] == 'ok' and 'Send' in entry['task']] == []
    again = support.play(tmp_path, 'airgap.k3s.stage', '-e', 'k3s_artifact_hosts=all',
                         hosts=inventory, home='collection')
    assert (again.rc, again.changed()) == (0, 0), again.output
