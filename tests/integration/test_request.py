# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which task stages a file and which is ansible-core's copy: the table, by every name under which the plugin can be
loaded.

Every task names the binary of another architecture, or one of a name that says nothing, and has a folder of its own on
the node. So what lies there afterwards tells who carried the task out.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

import support
from standin import Standin

NATIVE, MACHINE = support.NATIVE, support.MACHINES[support.NATIVE]
FOREIGN = 'arm64' if NATIVE == 'amd64' else 'amd64'
RIGHT, FOREIGN_NAME = support.program(), support.BINARIES[FOREIGN]
SCRIPT = '#!/bin/sh\n# K3s install script\n'
NODE = '{{ node }}'


class Case(NamedTuple):
    """A copy task and where its file ends: as staged (path and content below the node's folder), or as ansible-core
    leaves it."""

    args: dict
    staged: str | None  # the path below the node's folder at which the right file is; None: it is not ours
    core: str | None = None  # the path at which ansible-core's copy leaves what the task names
    keywords: dict = {}


def case(src, dest, staged=None, core=None, keywords=None, **args):
    return Case({'src': src, **({'dest': dest} if dest else {}), **args}, staged, core, keywords or {})


BIN = f'{NODE}/bin'
DEST = f'{BIN}/k3s'
CASES = {
    # the install path, whatever the source is called
    'the install path': case('airgap/' + FOREIGN_NAME, DEST, 'bin/k3s'),
    'the install path spelled with two slashes': case('airgap/' + FOREIGN_NAME, f'{NODE}//bin//k3s', 'bin/k3s'),
    'the install path spelled with dots': case('airgap/' + FOREIGN_NAME, f'{NODE}/./bin/../bin/k3s', 'bin/k3s'),
    'the install path through a link': case('airgap/' + FOREIGN_NAME, f'{NODE}/link/k3s', 'bin/k3s'),
    'a program of another name to the install path': case('other/wrong-program', DEST, 'bin/k3s'),
    'a program of another name through a link': case('other/wrong-program', f'{NODE}/link/k3s', 'bin/k3s'),
    'what is no program through a link': case('other/page.html', f'{NODE}/link/k3s', 'bin/k3s'),
    'a text called k3s to the folder through a link': case('other/k3s', f'{NODE}/link/', 'bin/k3s'),
    'what is no program to the install path': case('other/page.html', DEST, 'bin/k3s'),
    'a missing file to the install path': case(f'airgap/gone/{FOREIGN_NAME}', DEST, 'bin/k3s'),
    # no destination, the folder, elsewhere
    'no destination': case('airgap/' + FOREIGN_NAME, None, 'bin/k3s'),
    'the folder': case('airgap/' + FOREIGN_NAME, BIN, 'bin/k3s'),
    'the folder with a slash': case('airgap/' + FOREIGN_NAME, BIN + '/', 'bin/k3s'),
    'the folder spelled with dots': case('airgap/' + FOREIGN_NAME, f'{NODE}/bin/./', 'bin/k3s'),
    'a binary to elsewhere': case('airgap/' + FOREIGN_NAME, f'{NODE}/elsewhere', 'bin/k3s'),
    'a program of another name to the folder': case('other/wrong-program', BIN + '/', None, 'bin/wrong-program'),
    'a program of another name to elsewhere': case('other/wrong-program', f'{NODE}/tool', None, 'tool'),
    'a text that shall be called k3s elsewhere': case('other/page.html', f'{NODE}/agent/k3s', None, 'agent/k3s'),
    'a text called k3s to elsewhere': case('other/k3s', f'{NODE}/settings', None, 'settings'),
    # what copy does besides copying a file of the controller
    'content': case(None, DEST, None, 'bin/k3s', content='#!/bin/sh\n'),
    'a file of the node': case(f'{NODE}/on-the-node', DEST, None, 'bin/k3s', remote_src=True),
    # archives
    'an image archive': case(f'airgap/k3s-airgap-images-{NATIVE}.tar', f'{NODE}/agent/images/',
                             f'agent/images/k3s-airgap-images-{NATIVE}.tar'),
    'an image archive to a folder that is set': case(
        f'airgap/k3s-airgap-images-{NATIVE}.tar', f'{NODE}/pictures/', f'pictures/k3s-airgap-images-{NATIVE}.tar',
        keywords={'vars': {'k3s_artifact_images_dest': f'{NODE}/pictures'}}),
    'an image archive to that folder spelled otherwise': case(
        f'airgap/k3s-airgap-images-{NATIVE}.tar', f'{NODE}/./pictures//', f'pictures/k3s-airgap-images-{NATIVE}.tar',
        keywords={'vars': {'k3s_artifact_images_dest': f'{NODE}/pictures'}}),
    'an image archive under another name': case(f'airgap/k3s-airgap-images-{NATIVE}.tar',
                                                f'{NODE}/agent/images/mine.tar', 'agent/images/mine.tar'),
    'an image archive to elsewhere': case(f'airgap/k3s-airgap-images-{NATIVE}.tar', f'{NODE}/', None,
                                          f'k3s-airgap-images-{NATIVE}.tar'),
    'a text to the images': case('other/page.html', f'{NODE}/agent/images/', None, 'agent/images/page.html'),
    # the install script
    'the install script beside the install path': case('airgap/k3s-install.sh', f'{BIN}/k3s-install.sh',
                                                       'bin/k3s-install.sh'),
    'the install script to the folder': case('airgap/k3s-install.sh', BIN + '/', 'bin/k3s-install.sh'),
    'the install script to elsewhere': case('airgap/k3s-install.sh', f'{NODE}/k3s-install.sh', None, 'k3s-install.sh'),
    'another script beside the install path': case('other/script.sh', f'{BIN}/k3s-install.sh', None,
                                                   'bin/k3s-install.sh'),
}


def slug(name):
    return name.replace(' ', '-')


def docker_archive(path):
    """Make an archive of images that has an image of this machine's architecture."""
    def add(archive, name, text):
        entry = tarfile.TarInfo(name)
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    with tarfile.open(path, 'w') as archive:
        add(archive, 'manifest.json',
            json.dumps([{'Config': 'config.json', 'RepoTags': ['a:1'], 'Layers': []}]).encode())
        add(archive, 'config.json', json.dumps({'architecture': NATIVE, 'os': 'linux'}).encode())


def make_sources(folder):
    paths = support.release(folder / 'airgap', lists=False, images=False)
    paths[NATIVE].write_bytes(RIGHT)
    docker_archive(folder / 'airgap' / f'k3s-airgap-images-{NATIVE}.tar')
    (folder / 'airgap' / 'k3s-install.sh').write_text(SCRIPT)
    (folder / 'other').mkdir()
    (folder / 'other' / 'wrong-program').write_bytes(support.elf(FOREIGN))
    (folder / 'other' / 'page.html').write_text('<html>')
    (folder / 'other' / 'k3s').write_text('K3S_TOKEN=x\n')
    (folder / 'other' / 'script.sh').write_text('#!/bin/sh\n')
    return paths


def as_drop_in(folder):
    support.install_drop_in(folder)
    return 'copy', {}


def as_collection(folder):
    support.collection_path(folder)
    return 'airgap.k3s.copy', {}


def as_renamed_file(folder):
    support.install_drop_in(folder)
    os.rename(folder / 'action_plugins' / 'copy.py', folder / 'action_plugins' / 'k3s_copy.py')
    return 'k3s_copy', {}


def as_redirect(folder):
    """A collection of the user's own that routes an action of its own to ours."""
    place = Path(support.collection_path(folder)) / 'ansible_collections' / 'my' / 'cluster'
    (place / 'meta').mkdir(parents=True)
    routing = {'redirect': 'airgap.k3s.copy'}
    (place / 'meta' / 'runtime.yml').write_text(
        json.dumps({'plugin_routing': {'action': {'push': routing}, 'modules': {'push': routing}}}))
    return 'my.cluster.push', {}


def as_collections_keyword(folder):
    support.collection_path(folder)
    return 'copy', {'collections': ['airgap.k3s']}


HOMES = {home.__name__: home for home in (as_drop_in, as_collection, as_renamed_file, as_redirect,
                                          as_collections_keyword)}


@pytest.fixture(name='run', scope='module', params=HOMES)
def fixture_run(tmp_path_factory, request):
    """The whole table in one run; return the folder and the run."""
    folder = tmp_path_factory.mktemp(request.param)
    make_sources(folder)
    action, play = HOMES[request.param](folder)
    tasks = []
    for name, (args, _staged, _core, keywords) in CASES.items():
        node = folder / 'node' / slug(name)
        for part in ('bin', 'agent/images', 'pictures'):
            (node / part).mkdir(parents=True)
        (node / 'link').symlink_to('bin')
        (node / 'on-the-node').write_text('of the node')
        args = {key: f'{folder}/{value}' if key == 'src' and not value.startswith('{') else value
                for key, value in args.items() if value is not None}
        variables = {'node': str(node), 'k3s_artifact_dest': str(node / 'bin' / 'k3s'), **keywords.get('vars', {})}
        tasks.append({'name': name, action: args, 'vars': variables, 'ignore_errors': True})
    hosts = {'node': {'k3s_artifact_machine': MACHINE, 'k3s_artifact_dir': str(folder / 'airgap')}}
    env = {'ANSIBLE_COLLECTIONS_PATH': str(folder / 'collections'), 'ANSIBLE_PIPELINING': 'true'}
    return folder, support.play(folder, [{'hosts': 'all', 'gather_facts': False, **play, 'tasks': tasks}], hosts=hosts,
                                home='none', env=env, timeout=600)


@pytest.mark.parametrize('name', CASES)
def test_a_task_stages_what_is_on_its_way_to_where_k3s_has_it_and_nothing_else(run, name):
    folder, done = run
    args, staged, core, _keywords = CASES[name]
    node, result = folder / 'node' / slug(name), done.result('node', name)
    assert [entry['status'] for entry in done.results if entry['task'] == name] == ['ok'], result
    assert ('k3s_artifact' in result) == (staged is not None)
    found = {str(path.relative_to(node)): path.read_bytes() for path in node.rglob('*') if path.is_file()
             and path.name != 'on-the-node'}
    if staged is None:
        content = (args['content'].encode() if args.get('content')
                   else b'of the node' if args.get('remote_src') else (folder / args['src']).read_bytes())
        assert found == {core: content}
    else:
        kind = 'binary' if staged == 'bin/k3s' else 'script' if staged.endswith('.sh') else 'archive'
        right = {'binary': RIGHT, 'script': SCRIPT.encode()}.get(kind) or (folder / args['src']).read_bytes()
        assert found == {staged: right}
        assert {key: result['k3s_artifact'][key] for key in ('kind', 'action', 'installed', 'way', 'came')} == {
            'kind': kind, 'action': 'install', 'installed': 'absent', 'way': 'put_file', 'came': 'pushed'}
        assert os.path.realpath(result['dest']) == os.path.realpath(node / staged)
        assert (node / staged).stat().st_mode & 0o777 == (0o644 if kind == 'archive' else 0o755)


def test_only_a_binary_that_is_sent_elsewhere_than_it_says_is_worth_a_warning(run):
    words = ' '.join(run[1].output.split())
    assert words.count('is not the install path of K3s: the binary goes to') == 1
    assert '/elsewhere is not the install path' in words


OTHERS = {
    'template': {'ansible.builtin.template': {'src': 'k3s', 'dest': '{{ k3s_artifact_dest }}', 'mode': '0750'}},
    'assemble': {'ansible.builtin.assemble': {'src': '{{ fragments }}', 'dest': '{{ k3s_artifact_dest }}',
                                              'remote_src': False}},
}


@pytest.mark.parametrize('home', [as_drop_in, as_collections_keyword])
def test_what_calls_copy_inside_is_left_alone(tmp_path, home):
    """A template and an assembly that end at the install path are what the user wrote, whatever they are called."""
    make_sources(tmp_path)
    _action, play = home(tmp_path)
    (tmp_path / 'templates').mkdir()
    (tmp_path / 'templates' / 'k3s').write_text('for {{ inventory_hostname }}\n')
    (tmp_path / 'fragments').mkdir()
    (tmp_path / 'fragments' / 'k3s').write_text('fragment\n')
    (tmp_path / 'node').mkdir()
    tasks = [{'name': name, **task, 'vars': {'k3s_artifact_dest': f'{tmp_path}/node/{name}',
                                             'fragments': str(tmp_path / 'fragments')}}
             for name, task in OTHERS.items()]
    hosts = {'node': {'k3s_artifact_machine': MACHINE, 'k3s_artifact_dir': str(tmp_path / 'airgap')}}
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, **play, 'tasks': tasks}],
                       hosts=hosts, home='none',
                       env={'ANSIBLE_COLLECTIONS_PATH': str(tmp_path / 'collections')})
    assert run.rc == 0, run.output
    assert (tmp_path / 'node' / 'template').read_text() == 'for node\n'
    assert (tmp_path / 'node' / 'assemble').read_text() == 'fragment\n'
    assert not any('k3s_artifact' in entry['result'] for entry in run.results)


@pytest.mark.parametrize(('name', 'status'), [('chart.tgz', 'skipped'), ('k3s-source.tar.gz', 'skipped'),
                                              ('broken.tar.zst', 'failed')])
def test_what_is_no_image_archive_is_left_out_of_the_images_and_that_is_said(tmp_path, name, status):
    """A chart and a source tarball lie in many artifact directories; K3s would try to import them."""
    make_sources(tmp_path)
    path = tmp_path / 'airgap' / name
    if name == 'broken.tar.zst':
        path.write_bytes(b'<html>')
    else:
        with tarfile.open(path, 'w:gz') as archive:
            archive.add(tmp_path / 'other' / 'page.html', 'chart/Chart.yaml')
    images = tmp_path / 'node' / 'agent' / 'images'
    images.mkdir(parents=True)
    hosts = {'node': {'k3s_artifact_machine': MACHINE, 'k3s_artifact_dir': str(tmp_path / 'airgap')}}
    task = {'name': 'stage', 'copy': {'src': str(path), 'dest': f'{images}/'}, 'ignore_errors': True}
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': [task]}], hosts=hosts)
    assert os.listdir(images) == [], run.output
    [entry] = run.results
    assert entry['status'] == status and name in entry['result']['msg']
    assert status == 'failed' or f'{name} is left out of the image archives: it' in ' '.join(run.output.split())


def test_the_install_script_reaches_a_node_without_python(tmp_path):
    """The node's PATH has no Python, and what Ansible takes for its interpreter is not there."""
    standin = Standin(tmp_path)
    make_sources(tmp_path)
    hosts = {'node': standin.host('node', MACHINE, ansible_python_interpreter='/nonexistent/python3')}
    for name in ('python3', 'python'):
        standin.program('node', name, 'echo no python here >&2; exit 127')
    tasks = [{'name': 'script', 'copy': {'src': str(tmp_path / 'airgap' / 'k3s-install.sh'),
                                         'dest': '{{ k3s_artifact_dest | dirname }}/k3s-install.sh'}},
             {'name': 'binary', 'copy': {'src': str(tmp_path / 'airgap' / FOREIGN_NAME)}}]
    run = standin.stage(hosts, *tasks)
    assert run.rc == 0, run.output
    assert standin.installed('node').with_name('k3s-install.sh').read_text() == SCRIPT
    assert standin.installed('node').read_bytes() == RIGHT
    again = standin.stage(hosts, *tasks)
    assert (again.rc, again.changed()) == (0, 0), again.output
