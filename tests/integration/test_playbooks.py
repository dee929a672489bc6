# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks preflight, stage and demo, on pretend nodes: folders of this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import support

ARCHS = ('amd64', 'arm64', 'arm')


@pytest.fixture
def cluster(tmp_path):
    """Return (folder, host variables) of three pretend nodes and a release with an install script."""
    support.release(tmp_path / 'airgap', *ARCHS, layout='per-arch')
    (tmp_path / 'airgap' / 'k3s-install.sh').write_text('#!/bin/sh\n')
    hosts = {}
    for arch in ARCHS:
        node = tmp_path / 'nodes' / arch
        (node / 'bin').mkdir(parents=True)
        (node / 'agent' / 'images').mkdir(parents=True)
        hosts[arch] = {'k3s_artifact_machine': support.MACHINES[arch], 'k3s_artifact_probe': False,
                       'k3s_artifact_become': False,
                       'k3s_artifact_dir': str(tmp_path / 'airgap'), 'k3s_artifact_dest': f'{node}/bin/k3s',
                       'k3s_artifact_images_dest': f'{node}/agent/images'}
    return tmp_path, hosts


def stage(folder, playbook, *arguments, hosts):
    """Run a playbook of the collection for *hosts* as the group k3s_cluster."""
    inventory = support.write_inventory(folder / 'inventory.json', hosts)
    inventory.write_text(json.dumps({'k3s_cluster': json.loads(inventory.read_text())['all']}))
    return support.play(folder, playbook, *arguments, hosts=inventory, home='collection')


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def reports(run):
    return [entry['result'] for entry in run.results
            if (entry['task'], entry['status']) == ('Report on all hosts', 'ok')]


def test_stage_gives_each_host_its_own_files_and_a_second_run_changes_nothing(cluster):
    folder, hosts = cluster
    run = stage(folder, 'airgap.k3s.stage', '-e', f'k3s_artifact_report={folder}/report', hosts=hosts)
    assert run.rc == 0, run.output
    for arch in ARCHS:
        node = folder / 'nodes' / arch
        assert support.elf_arch(node / 'bin' / 'k3s') == arch
        assert (node / 'bin' / 'k3s').stat().st_mode & 0o7777 == 0o755
        assert sorted(files(node)) == [f'agent/images/k3s-airgap-images-{arch}.tar.zst',
                                       'bin/k3s', 'bin/k3s-install.sh']
    before, after = reports(run)
    assert (before['table'][0], after['table'][0]) == ('What each host gets', 'What each host got')
    for arch in ARCHS:
        digest = support.sha256(folder / 'airgap' / arch / support.BINARIES[arch])[:12]
        row = next(line.split() for line in after['table'] if digest in line)
        assert row[0] == f'{arch}/{support.BINARIES[arch]}' and row[-2:] == ['absent', 'pushed']
    report = json.loads((folder / 'report.json').read_text())
    assert [(row['host'], row['problems'], row['files'][0]['action'], row['changed']) for row in report['hosts']] == [
        (arch, [], 'install', True) for arch in ARCHS]
    assert all(support.sha256(folder / 'airgap' / arch / support.BINARIES[arch]) in (folder / 'report.md').read_text()
               for arch in ARCHS)

    there = {path: path.stat().st_mtime_ns for path in (folder / 'nodes').rglob('*')}
    again = stage(folder, 'airgap.k3s.stage', hosts=hosts)
    assert again.rc == 0, again.output
    assert again.changed() == 0
    assert there == {path: path.stat().st_mtime_ns for path in (folder / 'nodes').rglob('*')}


def test_preflight_changes_nothing_and_says_what_would_happen(cluster):
    folder, hosts = cluster
    (folder / 'nodes' / 'arm' / 'bin' / 'k3s').write_bytes(support.elf('amd64'))
    (folder / 'nodes' / 'arm64' / 'bin' / 'k3s').write_bytes((folder / 'airgap' / 'arm64' / 'k3s-arm64').read_bytes())
    (folder / 'nodes' / 'arm64' / 'bin' / 'k3s').chmod(0o600)
    before = files(folder / 'nodes')
    run = stage(folder, 'airgap.k3s.preflight', '-e', f'k3s_artifact_report={folder}/report.json', hosts=hosts)
    assert run.rc == 0, run.output
    assert files(folder / 'nodes') == before
    assert run.changed() == 0
    report = {row['host']: row for row in json.loads((folder / 'report.json').read_text())['hosts']}
    found = {(host, file['kind']): (file['installed'], file['action']) for host, row in report.items()
             for file in row['files']}
    assert {host: found[host, 'binary'] for host in ARCHS} == {
        'amd64': ('absent', 'install'), 'arm': ('wrong architecture', 'replace'), 'arm64': ('same', 'attributes')}
    assert {found[host, kind] for host in ARCHS for kind in ('script', 'archive')} == {('absent', 'install')}
    assert report['arm64']['files'][0]['bytes_to_send'] == 0  # only its mode is to be changed
    assert report['amd64']['bytes_to_send'] == sum(path.stat().st_size for path in (
        folder / 'airgap' / 'amd64' / 'k3s', folder / 'airgap' / 'amd64' / 'k3s-airgap-images-amd64.tar.zst',
        folder / 'airgap' / 'k3s-install.sh'))
    assert all(file['free'] > 0 for row in report.values() for file in row['files'])
    staged = stage(folder, 'airgap.k3s.stage', hosts=hosts)
    assert staged.rc == 0 and (folder / 'nodes' / 'arm64' / 'bin'
                               / 'k3s').stat().st_mode & 0o7777 == 0o755, staged.output


@pytest.mark.parametrize('playbook', ['airgap.k3s.stage', 'airgap.k3s.preflight'])
def test_hosts_that_cannot_be_served_stop_all_and_every_problem_of_every_host_is_named(cluster, playbook):
    folder, hosts = cluster
    shutil.copy(folder / 'airgap' / 'amd64' / 'k3s', folder / 'airgap' / 'arm64' / 'k3s-arm64')
    (folder / 'airgap' / 'arm64' / 'k3s-airgap-images-arm64.tar.zst').write_text('<html>404</html>')
    (folder / 'airgap' / 'arm' / 'k3s-armhf').unlink()
    hosts['gone'] = {**hosts['amd64'], 'ansible_connection': 'ssh', 'ansible_host': '127.0.0.1', 'ansible_port': 1}
    hosts['i686'] = {**hosts['amd64'], 'k3s_artifact_machine': 'i686'}
    before = files(folder / 'nodes')
    run = stage(folder, playbook, '-e', f'k3s_artifact_report={folder}/report', hosts=hosts)
    assert run.rc != 0
    assert files(folder / 'nodes') == before
    stopped = {entry['host']: (entry['status'], entry['result'].get('msg', ''))
               for entry in run.results if entry['task'] == 'Stop if a host cannot be served'}
    assert stopped == {
        'amd64': ('ok', ''), 'arm64': ('failed', '2 problems: see the report above.'),
        **{host: (status, '1 problem: see the report above.')
           for host, status in (('arm', 'failed'), ('gone', 'unreachable'), ('i686', 'failed'))}}
    report = {row['host']: row['problems'] for row in json.loads((folder / 'report.json').read_text())['hosts']}
    for host, texts in {
            'arm64': ("for host 'arm64' (machine aarch64, arch arm64): ", 'is a binary for amd64',
                      'k3s-airgap-images-arm64.tar.zst', 'is an HTML page'),
            'arm': ("for host 'arm' (machine armv7l, arch arm): ",), 'gone': ('gone is unreachable',),
            'i686': ("no release for the machine i686 of host 'i686'",)}.items():
        assert all(text in ' '.join(report[host]) for text in texts), report[host]
    assert {host: len(problems) for host, problems in report.items()} == {'amd64': 0, 'arm64': 2,
                                                                          'arm': 1, 'gone': 1, 'i686': 1}


def test_a_relative_artifact_directory_is_found_from_where_the_command_was_started(cluster):
    folder, hosts = cluster
    run = stage(folder, 'airgap.k3s.preflight', '-e', 'k3s_artifact_dir=airgap', hosts=hosts)
    assert run.rc == 0, run.output
    known = run.result('arm', 'Look at what each host gets')['k3s_artifact']
    assert known['files'][0]['source'] == str(folder / 'airgap' / 'arm' / 'k3s-armhf')


def test_a_report_that_cannot_be_written_stops_before_anything_is_looked_at(cluster):
    folder, hosts = cluster
    run = stage(folder, 'airgap.k3s.stage', '-e', 'k3s_artifact_report=out/rep', hosts=hosts)
    assert run.rc != 0 and f'the folder {folder}/out does not exist' in run.output
    assert [entry['task'] for entry in run.results] == ['Find out whether the report can be written']
    assert not files(folder / 'nodes')


def test_stage_in_check_mode_changes_nothing(cluster):
    folder, hosts = cluster
    run = stage(folder, 'airgap.k3s.stage', '--check', '--diff', hosts=hosts)
    assert run.rc == 0, run.output
    assert not files(folder / 'nodes')


def demo(folder, *arguments, env=None):
    return support.play(folder, 'airgap.k3s.demo', *arguments, hosts={}, home='collection', env=env)


def test_demo_proves_with_elf_headers_that_each_pretend_node_got_its_own(tmp_path):
    run = demo(tmp_path, '-e', f'k3s_artifact_scratch={tmp_path}/scratch')
    assert run.rc == 0, run.output
    assert 'The three nodes are pretend ones' in run.output and f'Look at them: {tmp_path}/scratch' in run.output
    for name, arch in (('server-x86', 'amd64'), ('agent-pi4', 'arm64'), ('agent-pi2', 'arm')):
        assert support.elf_arch(tmp_path / 'scratch' / name / 'usr' / 'local' / 'bin' / 'k3s') == arch
    assert run.changed() > 0
    again = demo(tmp_path, '-e', f'k3s_artifact_scratch={tmp_path}/scratch')
    assert again.rc == 0, again.output
    assert again.changed() == 0


def test_demo_works_in_a_path_with_a_space_and_leaves_nothing_behind(tmp_path):
    """The temporary folder has a short path: ansible-core from 2.21 on makes a socket in it."""
    folder = tmp_path / 'a folder'
    source = folder / 'ansible_collections' / 'airgap' / 'k3s'
    for name in ('playbooks', 'plugins'):
        shutil.copytree(support.ROOT / name, source / name)
    shutil.copy(support.ROOT / 'galaxy.yml', source)
    with tempfile.TemporaryDirectory(prefix='k3s ') as scratch:
        done = support.ansible('ansible-playbook', 'airgap.k3s.demo', folder=folder,
                               env={'ANSIBLE_COLLECTIONS_PATH': str(folder), 'TMPDIR': scratch})
        assert done.returncode == 0 and done.stdout.count('has a binary of class and machine') == 3, done.stdout
        assert not [name for name in os.listdir(scratch) if name.startswith('k3s-artifact-demo')]


def test_demo_in_check_mode_says_in_a_sentence_that_there_is_nothing_to_check(tmp_path):
    run = support.play(tmp_path, 'airgap.k3s.demo', '--check', home='collection')
    assert run.rc == 2 and 'nowhere else. Run it without --check.' in run.output, run.output
    assert 'has no attribute' not in run.output


def test_demo_works_for_a_user_who_is_not_root(tmp_path):
    """Root runs it as nobody, who has no home and may write to nothing but the folder."""
    source = tmp_path / 'ansible_collections' / 'airgap' / 'k3s'
    for name in ('playbooks', 'plugins'):
        shutil.copytree(support.ROOT / name, source / name)
    shutil.copy(support.ROOT / 'galaxy.yml', source)
    with tempfile.TemporaryDirectory(prefix='k3s-') as scratch:
        os.chmod(scratch, 0o755)
        shutil.copytree(tmp_path / 'ansible_collections', f'{scratch}/ansible_collections')
        os.mkdir(f'{scratch}/own')
        env = support.environment(tmp_path, ANSIBLE_COLLECTIONS_PATH=scratch, TMPDIR=f'{scratch}/own',
                                  HOME=f'{scratch}/own')
        nobody = []
        if os.geteuid() == 0:
            # May read everything: a Python in root's home, for one.
            nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=+dac_read_search',
                      '--ambient-caps=+dac_read_search']
            os.chown(f'{scratch}/own', 65534, 65534)
        env.update(ANSIBLE_LOCAL_TEMP=f'{scratch}/own/local', ANSIBLE_REMOTE_TEMP=f'{scratch}/own/remote')
        done = subprocess.run([*nobody, str(support.PROGRAMS / 'ansible-playbook'), 'airgap.k3s.demo'],
                              cwd=f'{scratch}/own', env=env, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200, check=False)
        assert done.returncode == 0 and done.stdout.count('has a binary of class and machine') == 3, done.stdout
        assert not [name for name in os.listdir(f'{scratch}/own') if name.startswith('k3s-artifact-demo')]


@pytest.fixture(scope='session')
def tarball(tmp_path_factory):
    """Return the tarball that ansible-galaxy builds from a copy of what the repository tracks."""
    folder = tmp_path_factory.mktemp('build')
    source = folder / 'source'
    shutil.copytree(support.ROOT, source, ignore=shutil.ignore_patterns(
        '.git', '.venv*', 'build', '.hypothesis', '.pytest_cache', '__pycache__', '.ansible', 'collections'))
    done = support.ansible('ansible-galaxy', 'collection', 'build', '--output-path', folder, source, folder=folder)
    assert done.returncode == 0, done.stdout
    return next(folder.glob('airgap-k3s-*.tar.gz'))


def check_installed(folder, collection, env):
    """Check that Ansible finds the plugins, their documentation and the playbooks of the installed *collection*."""
    assert ((collection / 'plugins' / 'action' / 'copy.py').read_bytes()
            == (support.ROOT / 'plugins' / 'action' / 'copy.py').read_bytes())
    assert not (collection / 'tests').exists() and not (collection / '.ci').exists()
    for kind, name in (('lookup', 'airgap.k3s.k3s_artifact'), ('module', 'airgap.k3s.copy')):
        done = support.ansible('ansible-doc', '-t', kind, name, folder=folder, env=env)
        assert done.returncode == 0 and 'k3s_artifact' in done.stdout, done.stdout
    demo = support.ansible('ansible-playbook', 'airgap.k3s.demo', '-e', f'k3s_artifact_scratch={folder}/scratch',
                           folder=folder, env=env)
    assert demo.returncode == 0, demo.stdout
    assert str(collection) in support.ansible('ansible-galaxy', 'collection', 'list', 'airgap.k3s',
                                              folder=folder, env=env).stdout \
        .replace('/ansible_collections\n', '/ansible_collections/airgap/k3s\n')


def test_the_tarball_installs_offline_with_plugins_playbooks_and_documentation(tmp_path, tarball):
    done = support.ansible('ansible-galaxy', 'collection', 'install', '--offline', '-p', tmp_path / 'installed',
                           tarball, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    check_installed(tmp_path, tmp_path / 'installed' / 'ansible_collections' / 'airgap' / 'k3s',
                    {'ANSIBLE_COLLECTIONS_PATH': str(tmp_path / 'installed')})


def test_pip_puts_the_collection_where_ansible_finds_it(tmp_path):
    source = tmp_path / 'source'
    shutil.copytree(support.ROOT, source, ignore=shutil.ignore_patterns(
        '.git', '.venv*', 'build', '.hypothesis', '.pytest_cache', '__pycache__', '.ansible', 'collections'))
    done = support.ansible('python', '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation',
                           '--target', tmp_path / 'site',
                           source, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    check_installed(tmp_path, tmp_path / 'site' / 'ansible_collections' / 'airgap' / 'k3s',
                    {'PYTHONPATH': str(tmp_path / 'site'), 'ANSIBLE_COLLECTIONS_PATH': os.devnull})


def test_every_playbook_says_what_it_is_and_has_named_plays():
    for path in Path(support.ROOT / 'playbooks').glob('*.yml'):
        text = path.read_text()
        assert text.startswith('---\n# ') and f'airgap.k3s.{path.stem}' in text
        assert '- name: ' in text


def test_a_fact_never_says_where_the_controller_writes_the_report(cluster):
    """A fact wins over the inventory, and a node's facts are its own: refused for the whole play, before anything is
    tried or written."""
    folder, hosts = cluster
    (folder / 'out').mkdir()
    fact = {'hosts': 'all', 'gather_facts': False, 'tasks': [
        {'name': 'a fact',
         'ansible.builtin.set_fact': {'k3s_artifact_report': f'{folder}/out/evil', 'cacheable': True}}]}
    plays = [fact, {'import_playbook': 'airgap.k3s.preflight', 'vars': {'k3s_artifact_hosts': 'all'}}]
    run = support.play(folder, plays, hosts=hosts, home='collection')
    assert run.rc != 0 and "has the fact 'k3s_artifact_report'" in ' '.join(run.output.split()), run.output
    assert list((folder / 'out').iterdir()) == []
    assert not [entry for entry in run.results if entry['task'].startswith('Look')]
