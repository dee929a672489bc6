# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of the lookup is what ansible-doc shows, and every example in it runs."""

from __future__ import annotations

import json
import re

import pytest
import yaml

import support

k3s = support.load_plugin('plugins/lookup/k3s_artifact.py')

# Written by hand: test_lookup.py shows that each of these works.
OPTIONS = {
    '_terms': [],
    'dir': ['k3s_artifact_dir', 'airgap_dir', 'K3S_ARTIFACT_DIR', '[k3s_artifact] dir'],
    'machine': ['k3s_artifact_machine'],
    'binary_map': ['k3s_binary_map'],
    'verify': ['k3s_artifact_verify', 'K3S_ARTIFACT_VERIFY', '[k3s_artifact] verify'],
    'images': ['k3s_artifact_images'],
}


def sources(option):
    return [entry['name'] for kind in ('vars', 'env') for entry in option.get(kind, ())] + [
        f'[{entry["section"]}] {entry["key"]}' for entry in option.get('ini', ())]


@pytest.fixture(params=['k3s_artifact', 'airgap.k3s.k3s_artifact'])
def ansible_doc(request, tmp_path):
    """Return a function that runs ansible-doc for the lookup, as a loose file and in the collection."""
    env = {'COLUMNS': '200'}
    if '.' in request.param:
        env['ANSIBLE_COLLECTIONS_PATH'] = support.collection_path(tmp_path)
    else:
        support.install_drop_in(tmp_path)

    def run(*arguments):
        where = [] if '.' in request.param else ['--playbook-dir', tmp_path]
        return support.ansible('ansible-doc', '-t', 'lookup', *where, *arguments, request.param,
                               folder=tmp_path, env=env)
    return run


def test_ansible_doc_shows_every_option_and_where_it_comes_from(ansible_doc):
    done = ansible_doc()
    assert done.returncode == 0, done.stdout
    assert not re.search('WARNING|ERROR|DEPRECAT', done.stdout), done.stdout
    shown = re.sub(r'\s+', ' ', done.stdout)
    for option, names in OPTIONS.items():
        assert re.search(rf'(^|\s)[-=]?\s?{option}\b', done.stdout), option
        for name in names:
            for word in re.findall(r'\w+', name):
                assert re.search(rf'\b{word}\b', shown), name
    for term in k3s.TERMS:
        assert re.search(rf'\b{term}\b', shown), term


def test_ansible_doc_reads_what_the_file_says(ansible_doc):
    done = ansible_doc('--json')
    assert done.returncode == 0, done.stdout
    document, = json.loads(done.stdout).values()
    assert {name: sources(option) for name, option in document['doc']['options'].items()} == OPTIONS
    assert document['doc']['options']['_terms']['choices'] == list(k3s.TERMS)
    assert document['examples'].strip() == k3s.EXAMPLES.strip()
    assert '_raw' in document['return']


@pytest.fixture(scope='module')
def examples(tmp_path_factory):
    """Run the examples word for word, with the folder that they name in another place; return that and the run."""
    parent = tmp_path_factory.mktemp('examples')
    airgap = parent / 'srv' / 'airgap'
    for arch, path in support.release(airgap, 'amd64', 'arm64', 'arm', layout='per-arch').items():
        path.rename(airgap / arch / 'k3s')
        (airgap / arch / 'k3s-install.sh').write_text('#!/bin/sh\n')
    tasks = yaml.safe_load(k3s.EXAMPLES.replace('/srv/airgap', str(airgap)))
    plays = [{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}]
    hosts = {arch: {'k3s_artifact_machine': support.MACHINES[arch], 'airgap_dir': str(airgap)}
             for arch in ('amd64', 'arm64', 'arm')}
    return airgap, support.play(parent, plays, hosts=hosts)


def test_every_example_runs(examples):
    _airgap, run = examples
    assert run.rc == 0, run.output
    names = {task['name'] for task in yaml.safe_load(k3s.EXAMPLES)}
    assert {(entry['host'], entry['task'], entry['status']) for entry in run.results} == {
        (host, name, 'ok') for host in ('amd64', 'arm64', 'arm') for name in names}
    assert 'WARNING' not in run.output


@pytest.mark.parametrize('arch', ['amd64', 'arm64', 'arm'])
def test_every_example_shows_what_its_name_says(examples, arch):
    airgap, run = examples
    binary = airgap / arch / 'k3s'
    shown = {task['name']: run.result(arch, task['name']).get('msg') for task in yaml.safe_load(k3s.EXAMPLES)}
    items = [result['msg'] for result in run.items(arch, 'Show the image archives for each host')]
    assert items == [f'{airgap}/{arch}/k3s-airgap-images-{arch}.tar.zst']
    assert {name: message for name, message in shown.items() if name != 'Show the image archives for each host'} == {
        'Show the binary for each host': f'{arch} gets {binary}',
        'Show names and digests without setting a variable': f'{support.BINARIES[arch]} {support.sha256(binary)}',
        'Name the release file of a machine that is not in the inventory': 'k3s-riscv64',
        'Use a build of your own where K3s has no release': 'k3s-armv6',
        'Give an untouched k3s-ansible the folder of each host\'s architecture': f'{airgap}/{arch}',
    }
