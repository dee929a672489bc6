# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every documented argument of copy, on a task that stages a binary: which path it takes, and that it still means the
same.

Which path: each value alone, in check mode. The same state: for real, given to a staging task and to
``ansible.builtin.copy`` of the file that is right for the node, with several arguments at once where they do not meet.
"""

from __future__ import annotations

import concurrent.futures
import grp
import json
import os
import pwd
import re

import pytest

import support

SHORT, CORE, ASIDE = 'the short path', 'copy of ansible-core', 'not staged at all'

USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
RIGHT = support.program()
BINARY = support.BINARIES[support.NATIVE]
SOURCE = '{{ source }}/' + BINARY

PATHS = {
    'src': [('k3s-s390x', SHORT), (SOURCE, SHORT)],
    'dest': [('{{ k3s_artifact_dest }}', SHORT)],
    'content': [('text', ASIDE)],
    'mode': [('0700', SHORT), (0o644, SHORT), (None, SHORT), ('u=rwx,g=rx,o=', CORE), ('preserve', CORE)],
    'owner': [(USER, SHORT), (os.getuid(), SHORT)],
    'group': [(GROUP, SHORT)],
    'backup': [(True, CORE), ('no', SHORT)],
    'force': [(False, CORE), (True, SHORT)],
    'remote_src': [(True, ASIDE), (False, SHORT)],
    'follow': [(True, CORE), (False, SHORT)],
    'local_follow': [(False, SHORT)],
    'directory_mode': [('0700', SHORT)],
    'decrypt': [(False, SHORT)],
    'validate': [('true %s', CORE)],
    'checksum': [('{{ sha1 }}', CORE)],
    'attributes': [('-i', CORE)],
    'unsafe_writes': [(True, CORE), (False, SHORT)],
    'seuser': [('system_u', CORE)],
    'serole': [('object_r', CORE)],
    'setype': [('bin_t', CORE)],
    'selevel': [('s0', CORE)],
}
PATH_CASES = {f'{name}: {re.sub("[{ }]", "", str(value))}': (name, value, path) for name, values in PATHS.items()
              for value, path in values}

STATES = {
    'what is the default anyway': {'backup': False, 'force': True, 'remote_src': False, 'follow': False,
                                   'unsafe_writes': False,
                                   'local_follow': False, 'directory_mode': '0700', 'decrypt': False, 'mode': None},
    'the files attributes': {'src': '{{ source }}/link/' + BINARY, 'mode': '00710', 'owner': USER,
                             'group': os.getgid()},
    'a symbolic mode': {'mode': 'u=rwx,g=rx,o='},
    'a preserved mode': {'mode': 'preserve'},
    'force': {'force': False},
    'follow': {'follow': True},
    'what core checks and keeps': {'validate': 'grep -q "k3s version" %s', 'checksum': '{{ sha1 }}', 'backup': True,
                                   'unsafe_writes': True},
    'refused by validate': {'validate': 'grep -q absent %s'},
    'the wrong checksum': {'checksum': '0' * 40},
    'attributes of SELinux and of the file system': {'seuser': 'system_u', 'serole': 'object_r', 'setype': 'bin_t',
                                                     'selevel': 's0', 'attributes': '-i'},
}


def slug(case):
    return re.sub(r'\W+', '-', case)


def run_play(folder, tasks):
    hosts = {'node': {'k3s_artifact_machine': support.MACHINES[support.NATIVE], 'source': str(folder.parent / 'airgap'),
                      'k3s_artifact_dir': '{{ source }}', 'sha1': support.sha1(folder.parent / 'airgap' / BINARY)}}
    for task in tasks:
        node = folder / slug(task['name'])
        node.mkdir()
        (node / 'old').write_text('old')
        (node / 'old').chmod(0o640)
        (node / 'k3s').symlink_to('old')
        if task['name'] != 'follow':
            (node / 'old').rename(node / 'k3s')
        task.update(ignore_errors=True, vars={'k3s_artifact_dest': str(node / 'k3s')})
    return folder, support.play(folder, [{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}], '-vvv',
                                hosts=hosts, timeout=900,
                                env={'ANSIBLE_PIPELINING': 'true'})


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Return (folder, run) of the staging tasks and of ansible-core's; on each node is an old file before."""
    top = tmp_path_factory.mktemp('arguments')
    (top / 'airgap' / 'link').mkdir(parents=True)
    support.release(top / 'airgap', 's390x')
    (top / 'airgap' / BINARY).write_bytes(RIGHT)
    (top / 'airgap' / BINARY).chmod(0o751)
    (top / 'airgap' / 'link' / BINARY).symlink_to('../' + BINARY)
    dest = '{{ k3s_artifact_dest }}'
    ours = [{'name': case, 'copy': {'src': SOURCE, **args}} for case, args in STATES.items()]
    cores = [{'name': case, 'ansible.builtin.copy': {'src': SOURCE, 'dest': dest, **args,
                                                     'mode': args.get('mode') or '0755'}}
             for case, args in STATES.items()]
    for case, (name, value, path) in PATH_CASES.items():
        args = {'src': SOURCE, name: value, **({'dest': dest} if path == ASIDE else {})}
        ours.append({'name': case, 'copy': {key: args[key] for key in args if (name, key) != ('content', 'src')},
                     'check_mode': True})
    for folder in ('ours', 'cores'):
        (top / folder).mkdir()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(run_play, (top / 'ours', top / 'cores'), (ours, cores)))


def test_every_documented_argument_is_classified(tmp_path):
    done = support.ansible('ansible-doc', '-t', 'module', '-j', 'ansible.builtin.copy', folder=tmp_path)
    documented = json.loads(done.stdout[done.stdout.index('{'):])['ansible.builtin.copy']['doc']['options']
    assert set(PATHS) == set(documented)
    assert set().union(*STATES.values()) | {'src', 'dest', 'content'} == set(documented)


@pytest.mark.parametrize('case', PATH_CASES)
def test_an_argument_takes_its_path(runs, case):
    """The path is what the task says of itself at -vvv."""
    run = runs[0][1]
    result = run.result('node', case)
    said = next(text for text in re.split(r'^TASK ', run.output, flags=re.MULTILINE) if text.startswith(f'[{case}] '))
    through_core = 'the short path does not do ' in said
    assert ('k3s_artifact' in result, through_core) == {SHORT: (True, False), CORE: (True, True),
                                                        ASIDE: (False, False)}[PATH_CASES[case][2]]


@pytest.mark.parametrize('case', STATES)
def test_an_argument_means_what_it_means_to_core(runs, case):
    ours, cores = ({re.sub(r'\..*~', '~', path.name): (path.lstat().st_mode, path.lstat().st_uid,
                                                       path.lstat().st_gid, path.read_bytes())
                    for path in (folder / slug(case)).iterdir()} for folder, _run in runs)
    assert ours == cores
    ours, cores = ([(entry['status'], entry['result']['changed']) for entry in run.results if entry['task'] == case]
                   for _folder, run in runs)
    assert ours == cores


def test_the_arguments_end_as_intended(runs):
    """Both paths are equal; here is that they are not equally wrong."""
    folder = runs[0][0]
    nodes = {case: folder / slug(case) / 'k3s' for case in (*STATES, *PATH_CASES)}
    kept = {'force', 'refused by validate', 'the wrong checksum', *PATH_CASES}  # the latter ran in check mode
    assert {case for case, path in nodes.items() if path.read_bytes() == b'old'} == kept
    assert {case for case, path in nodes.items() if path.read_bytes() == RIGHT} == set(nodes) - kept
    assert nodes['follow'].is_symlink()
    assert [oct(nodes[case].stat().st_mode & 0o7777) for case in ('what is the default anyway', 'the files attributes',
                                                                  'a symbolic mode', 'a preserved mode')] == [
        '0o755', '0o710', '0o750', '0o751']
