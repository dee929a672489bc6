# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy that has nothing to do with K3s cannot be told from that of ansible-core.

One table of tasks runs twice, on two nodes that start equal: once as ``copy`` with the two files beside the playbook,
once as ``ansible.builtin.copy`` without them. The results must be equal key by key, and the nodes file by file.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

import support

ANSIBLE_COPY = 'ansible.builtin.copy'
SHA1_OF_PLAIN = 'e9082fb8a3d2c90bef362146f790c1cd54ccce42'  # of 'hello', twice; see make_sources
RIGHT_MACHINE = support.MACHINES[support.NATIVE]
FOREIGN = 'arm64' if support.NATIVE == 'amd64' else 'amd64'
VAULT_PASSWORD = 'not a secret'


class Case(NamedTuple):
    """One copy task: its arguments, what its folder on the node holds before, and the task's keywords."""

    args: dict
    before: dict = {}  # text by name; a dict for a folder, a Path for a link
    keywords: dict = {}


SRC, NODE = '{{ source }}/', '{{ node }}/'
INSTALL_PATH = {'vars': {'k3s_artifact_dest': NODE + 'bin/k3s'}}
PLAIN, OLD = {'plain.txt': 'hello\nhello\n'}, {'plain.txt': 'old\n'}

CASES = {
    'a file into a folder without trailing slash': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'folder'},
                                                        {'folder': {}}),
    'a file of the files folder, an octal number '
    'as mode': Case({'src': 'beside.txt', 'dest': NODE + 'beside.txt', 'mode': 0o604}),
    'another mode only': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'plain.txt', 'mode': '0600'}, PLAIN),
    'another content': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'plain.txt'}, OLD, {'diff': True}),
    'a folder': Case({'src': SRC + 'tree', 'dest': NODE + 'copied', 'mode': '0640', 'directory_mode': '0750'}),
    'what is in a folder, modes preserved, '
    'links kept': Case({'src': SRC + 'tree/', 'dest': NODE, 'mode': 'preserve', 'local_follow': False}),
    'content': Case({'content': 'some text\n', 'dest': NODE + 'content.txt'}),
    'content from a mapping': Case({'content': {'a': [1, 2]}, 'dest': NODE + 'content.json'}),
    'content into a folder': Case({'content': 'text', 'dest': NODE + 'folder'}, {'folder': {}}),
    'the file behind a link, a symbolic mode': Case({'src': SRC + 'link.txt', 'dest': NODE, 'mode': 'u=rw,g=r,o='}),
    'in place of a link': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'link'},
                               {'link': Path('target'), 'target': 'old\n'}),
    'to the target of a link': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'link', 'follow': True},
                                    {'link': Path('target'), 'target': 'old\n'}),
    'decrypted': Case({'src': SRC + 'vault.txt', 'dest': NODE}),
    'left encrypted': Case({'src': SRC + 'vault.txt', 'dest': NODE, 'decrypt': False}),
    'backup, validate, the right checksum': Case({
        'src': SRC + 'plain.txt', 'dest': NODE + 'plain.txt', 'backup': True, 'validate': 'grep hello %s',
        'checksum': SHA1_OF_PLAIN}, OLD),
    'refused by validate': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'plain.txt', 'validate': 'grep absent %s'},
                                OLD),
    'the wrong checksum': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'plain.txt', 'checksum': '0' * 40}, OLD),
    'force no': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'plain.txt', 'force': False}, OLD),
    'check mode': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'plain.txt'}, OLD, {'check_mode': True, 'diff': True}),
    'no_log': Case({'content': 'hush-hush', 'dest': NODE + 'secret'}, {}, {'no_log': True, 'diff': True}),
    'a missing source': Case({'src': SRC + 'absent.txt', 'dest': NODE}),
    'a missing folder': Case({'src': SRC + 'plain.txt', 'dest': NODE + 'absent/plain.txt'}),
    'a missing destination': Case({'src': SRC + 'plain.txt'}),
    'no source': Case({'dest': NODE + 'x'}),
    'source and content': Case({'src': SRC + 'plain.txt', 'content': 'x', 'dest': NODE + 'x'}),
    'an unknown argument': Case({'src': SRC + 'plain.txt', 'dest': NODE, 'colour': 'blue'}),
    'an internal argument': Case({'src': SRC + 'plain.txt', 'dest': NODE, '_original_basename': 'x'}),
    'omitted arguments': Case({'src': SRC + 'plain.txt', 'dest': NODE, 'mode': '{{ omit }}',
                               'owner': '{{ nobody | default(omit) }}'}),
    'until': Case({'src': SRC + 'plain.txt', 'dest': NODE}, {}, {'until': False, 'retries': 1, 'delay': 0}),
    'a loop': Case({'src': SRC + '{{ item }}', 'dest': NODE}, {}, {'loop': ['plain.txt', 'script.sh']}),
    # what looks a little like K3s
    'a folder called k3s': Case({'src': SRC + 'etc/k3s', 'dest': NODE}),
    'a script called k3s to elsewhere': Case({'src': SRC + 'default/k3s', 'dest': NODE + 'k3s'}),
    'a missing k3s to elsewhere': Case({'src': SRC + 'absent/k3s', 'dest': NODE + 'k3s'}),
    'content for the install path': Case({'content': '#!/bin/sh\n', 'dest': NODE + 'bin/k3s', 'mode': '0755'},
                                         {'bin': {}}, INSTALL_PATH),
    'a k3s from the node itself': Case({'src': NODE + 'k3s', 'dest': NODE + 'bin/k3s', 'remote_src': True},
                                       {'k3s': 'x', 'bin': {}}, INSTALL_PATH),
    'a program of another name to elsewhere': Case({'src': SRC + 'program', 'dest': NODE + 'bin/program'},
                                                   {'bin': {}}, INSTALL_PATH),
    'a k3s and content': Case({'src': SRC + 'release/k3s', 'content': 'x', 'dest': NODE + 'x'}),
    'an archive to elsewhere': Case({'src': SRC + f'k3s-airgap-images-{FOREIGN}.tar.zst', 'dest': NODE}),
    'a hidden archive to the images': Case({'src': SRC + '.hidden.tar', 'dest': NODE + 'agent/images/'},
                                           {'agent': {'images': {}}}),
    'a missing archive': Case({'src': SRC + 'absent.tar', 'dest': NODE + 'agent/images/'}, {'agent': {'images': {}}}),
}


# Notes after every result what the node's folder for temporary files holds.
LEFTOVERS = '''
import json, os
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = "name: leftovers\\ntype: aggregate\\nshort_description: x\\ndescription: x"

class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, 'aggregate', 'leftovers'

    def v2_runner_on_ok(self, result, ignore_errors=False):
        folder = os.environ['LEFTOVERS_IN']
        task = getattr(result, 'task', None) or result._task
        found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        with open(folder + '.jsonl', 'a') as file:
            file.write(json.dumps([task.get_name(), found]) + chr(10))

    v2_runner_on_failed = v2_runner_on_skipped = v2_runner_on_ok
'''

OTHER_ACTIONS = [
    {'name': 'template', 'ansible.builtin.template': {'src': 'plain.j2', 'dest': '{{ node }}/template.txt'}},
    {'name': 'template called k3s', 'ansible.builtin.template': {'src': 'k3s', 'dest': '{{ node }}/default'}},
    {'name': 'template called k3s for the install path',
     'ansible.builtin.template': {'src': 'k3s', 'dest': '{{ node }}/bin/k3s', 'mode': '0750'},
     'vars': {'k3s_artifact_dest': '{{ node }}/bin/k3s'}},
    {'name': 'template in check mode', 'ansible.builtin.template': {'src': 'k3s', 'dest': '{{ node }}/template.txt'},
     'check_mode': True, 'diff': True},
    {'name': 'assemble', 'ansible.builtin.assemble': {'src': '{{ source }}/tree', 'dest': '{{ node }}/bin/assembled',
                                                      'remote_src': False}},
    {'name': 'unarchive', 'ansible.builtin.unarchive': {'src': '{{ source }}/archive.tar',
                                                        'dest': '{{ node }}/unpacked'}},
]


def make_sources(folder):
    """Make the files of the controller that the tasks name."""
    texts = {'plain.txt': 'hello\nhello\n', 'script.sh': '#!/bin/sh\n', 'tree/one': '1\n', 'tree/deep/three': '3\n',
             'etc/k3s/config.yaml': 'a: b\n', 'default/k3s': 'K3S_TOKEN=x\n', '.hidden.tar': 'tar\n',
             'vault.txt': 'out of the vault\n'}
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name, mode in {'plain.txt': 0o644, 'script.sh': 0o751, 'tree/one': 0o604}.items():
        (folder / name).chmod(mode)
    (folder / 'tree' / 'link').symlink_to('one')
    (folder / 'link.txt').symlink_to('plain.txt')
    (folder / 'program').write_bytes(support.program())
    (folder / f'k3s-airgap-images-{FOREIGN}.tar.zst').write_bytes(b'images')
    support.release(folder / 'release')
    with tarfile.open(folder / 'archive.tar', 'w') as archive:
        archive.add(folder / 'tree' / 'one', 'one')
    (folder / 'password').write_text(VAULT_PASSWORD)
    done = support.ansible('ansible-vault', 'encrypt', '--vault-password-file', folder / 'password',
                           folder / 'vault.txt', folder=folder)
    assert done.returncode == 0, done.stdout


def fill(folder, content):
    """Make *folder* hold what Case.before says."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in content.items():
        if isinstance(value, dict):
            fill(folder / name, value)
        elif isinstance(value, Path):
            (folder / name).symlink_to(value)
        else:
            (folder / name).write_text(value)
            (folder / name).chmod(0o640)


def slug(name):
    return re.sub(r'\W+', '-', name)


def tree(folder):
    """Return kind, mode and content of everything below *folder* by relative path."""
    result = {}
    for path in sorted(folder.rglob('*')):
        name = re.sub(r'\.\d+\.\d{4}-.*~$', '.BACKUP~', str(path.relative_to(folder)))
        content = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        result[name] = (oct(path.lstat().st_mode), content)
    return result


def normalised(result, folder):
    """Return a task's result as text by key, without what differs between any two runs."""
    result = json.loads(json.dumps(result).replace(str(folder), '<folder>'))
    if 'exception' in result:  # a traceback names the files of the action plugins; its last line is the error
        result['exception'] = result['exception'].strip().splitlines()[-1:] and 'some traceback'
    text = json.dumps(result, sort_keys=True)
    for pattern, name in ((r'ansible-tmp-[\d.-]+', '<remote tmp>'), (r'ansible-local-\w+', '<local tmp>'),
                          (r'(?<=/)tmp\w{8}(?=[/"])', '<tmp>'),
                          (r'(?<=["/])(\.|tmp)\w{8}(?=")', '<content>'),
                          (r'\.\d+\.\d{4}-\d\d-\d\d@[\d:]+~', '.BACKUP~')):
        text = re.sub(pattern, name, text)
    return json.loads(text)


def run_table(top, name, action, home):
    """Run the table of cases and the other actions in the folder *name*; return that folder and the run."""
    folder = top / name
    nodes = {case: folder / 'node' / slug(case) for case in (*CASES, 'others')}
    for case, node in nodes.items():
        fill(node, CASES[case].before if case in CASES else {'bin': {}, 'unpacked': {}})
    (folder / 'files').mkdir()
    (folder / 'files' / 'beside.txt').write_text('beside\n')
    (folder / 'templates').mkdir()
    for template in ('plain.j2', 'k3s'):
        (folder / 'templates' / template).write_text(template + ' for {{ inventory_hostname }}\n')
    tasks = [{'name': case, action: args, **keywords, 'ignore_errors': True,
              'vars': {**keywords.get('vars', {}), 'node': str(nodes[case])}}
             for case, (args, _before, keywords) in CASES.items()]
    tasks += [{**task, 'ignore_errors': True, 'vars': {**task.get('vars', {}), 'node': str(nodes['others'])}}
              for task in OTHER_ACTIONS]
    (folder / 'callbacks').mkdir()
    (folder / 'callbacks' / 'leftovers.py').write_text(LEFTOVERS)
    env = {'ANSIBLE_VAULT_PASSWORD_FILE': str(top / 'source' / 'password'), 'LEFTOVERS_IN': str(folder / 'remote'),
           'ANSIBLE_CALLBACK_PLUGINS': f'{support.ROOT}/tests/callbacks:{folder}/callbacks',
           'ANSIBLE_CALLBACKS_ENABLED': 'record,leftovers',
           'ANSIBLE_PIPELINING': 'true'}
    hosts = {'node': {'source': str(top / 'source'), 'ansible_remote_tmp': str(folder / 'remote')}}
    return folder, support.play(folder, [{'hosts': 'all', 'gather_facts': False, 'tasks': tasks}], hosts=hosts,
                                home=home, env=env, timeout=900)


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    """The table, run through the override and through ansible-core's copy: two pairs of folder and run."""
    top = tmp_path_factory.mktemp('aside')
    make_sources(top / 'source')
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [pool.submit(run_table, top, 'override', 'copy', 'drop-in'),
                pool.submit(run_table, top, 'builtin', ANSIBLE_COPY, 'none')]
        return [run.result() for run in runs]


@pytest.mark.parametrize('task', [*CASES, *(task['name'] for task in OTHER_ACTIONS)])
def test_a_task_that_is_not_about_k3s_has_the_result_of_core(both, task):
    ours, cores = ([normalised({key: entry[key] for key in ('status', 'item', 'result')}, folder)
                    for entry in run.results if entry['task'] == task] for folder, run in both)
    assert ours == cores
    assert cores, both[1][1].output


@pytest.mark.parametrize('case', [*CASES, 'others'])
def test_a_task_that_is_not_about_k3s_leaves_the_node_as_core_does(both, case):
    ours, cores = (tree(folder / 'node' / slug(case)) for folder, _run in both)
    assert ours == cores


def test_the_table_ends_as_intended(both):
    """The two runs are equal; here is that they are not equally wrong."""
    (folder, run), _cores = both
    node = folder / 'node'
    assert (node / slug('decrypted') / 'vault.txt').read_text() == 'out of the vault\n'
    assert (node / slug('left encrypted') / 'vault.txt').read_text().startswith('$ANSIBLE_VAULT')
    assert (node / 'others' / 'default').read_text() == 'k3s for node\n'
    assert (node / 'others' / 'bin' / 'k3s').read_text() == 'k3s for node\n'
    assert (node / 'others' / 'unpacked' / 'one').read_text() == '1\n'
    # ansible-core 2.15 lets an internal parameter pass that later releases refuse
    assert sum(entry['status'] == 'failed' for entry in run.results) in (13, 14)
    assert run.result('node', 'until')['attempts'] == 1
    assert not any('k3s_artifact' in entry['result'] for entry in run.results)
    assert 'hush-hush' not in run.output + json.dumps(run.results)


def test_after_every_task_the_nodes_temporary_folder_is_as_empty_as_core_leaves_it(both):
    ours, cores = ([json.loads(line) for line in Path(f'{folder}/remote.jsonl').read_text().splitlines()]
                   for folder, _run in both)
    assert ours == cores
    assert len(cores) == len(CASES) + len(OTHER_ACTIONS)
    assert not any(left for _task, left in cores)


def staging_play(tasks, **keywords):
    return [{'hosts': 'all', 'gather_facts': False, **keywords, 'tasks': tasks}]


@pytest.mark.parametrize('order', [('copy', ANSIBLE_COPY, 'ansible.legacy.copy'), (ANSIBLE_COPY, 'copy', ANSIBLE_COPY)],
                         ids=' '.join)
def test_ansible_builtin_copy_never_reaches_the_override(tmp_path, order):
    support.release(tmp_path / 'airgap', support.NATIVE, FOREIGN)
    source = str(tmp_path / 'airgap' / support.BINARIES[FOREIGN])
    (tmp_path / 'node').mkdir()
    tasks = [{'name': f'{number}', action: {'src': source, 'dest': str(tmp_path / 'node' / f'{number}')},
              'vars': {'k3s_artifact_dest': str(tmp_path / 'node' / f'{number}')}}
             for number, action in enumerate(order)]
    hosts = {'node': {'k3s_artifact_machine': RIGHT_MACHINE, 'k3s_artifact_probe': False}}
    run = support.play(tmp_path, staging_play(tasks), hosts=hosts)
    assert run.rc == 0, run.output
    for number, action in enumerate(order):
        result = run.result('node', str(number))
        assert (support.elf_arch(tmp_path / 'node' / str(number))
                == (FOREIGN if action == ANSIBLE_COPY else support.NATIVE))
        assert ('k3s_artifact' in result) == (action != ANSIBLE_COPY)
        assert ('src' in result) == (action == ANSIBLE_COPY)  # a key of core's module


def test_module_defaults_go_on_applying_under_each_spelling(tmp_path):
    """The last two ask for a mode that is omitted: what ansible-core's copy makes of it is the measure."""
    binary = {'src': str(tmp_path / support.BINARIES[support.NATIVE])}
    Path(binary['src']).write_bytes(support.program())
    node = tmp_path / 'node'
    node.mkdir()
    defaults = {'mode': '0600'}
    spellings = {'short': 'copy', 'legacy': 'ansible.legacy.copy', 'builtin': ANSIBLE_COPY}
    tasks = []
    for name, spelling in spellings.items():
        tasks.append({'name': f'{name} content', 'copy': {'content': 'x', 'dest': str(node / f'{name}-content')},
                      'module_defaults': {spelling: defaults}})
        tasks.append({'name': f'{name} binary', 'copy': binary, 'module_defaults': {spelling: defaults},
                      'vars': {'k3s_artifact_dest': str(node / f'{name}-binary')}})
    tasks.append({'name': 'task wins', 'copy': {**binary, 'mode': '0710'}, 'module_defaults': {ANSIBLE_COPY: defaults},
                  'vars': {'k3s_artifact_dest': str(node / 'task-wins')}})
    tasks.append({'name': 'templated', 'copy': binary, 'module_defaults': {ANSIBLE_COPY: {'mode': '{{ wanted }}'}},
                  'vars': {'k3s_artifact_dest': str(node / 'templated'), 'wanted': '0640'}})
    for name, default, mode in (('task-omits', '0600', '{{ omit }}'), ('default-omits', '{{ omit }}', None)):
        for action in ('copy', ANSIBLE_COPY):
            args = {'content': 'x', 'dest': str(node / f'{name}-{action}'), **({'mode': mode} if mode else {})}
            tasks.append({'name': f'{name} {action}', action: args,
                          'module_defaults': {ANSIBLE_COPY: {'mode': default}}})
    hosts = {'node': {'k3s_artifact_machine': RIGHT_MACHINE}}
    run = support.play(tmp_path, staging_play(tasks), hosts=hosts, env={'ANSIBLE_PIPELINING': 'true'})
    assert run.rc == 0, run.output
    modes = {path.name: f'{path.stat().st_mode & 0o7777:04o}' for path in node.iterdir()}
    for name in spellings:
        assert (modes[f'{name}-content'], modes[f'{name}-binary']) == ('0600', '0600')
    assert (modes['task-wins'], modes['templated']) == ('0710', '0640')
    for name in ('task-omits', 'default-omits'):
        assert modes[f'{name}-copy'] == modes[f'{name}-{ANSIBLE_COPY}']


def test_a_task_that_is_tried_again_starts_from_its_own_arguments(tmp_path):
    """A command of the first try puts another build into the artifact directory; nothing of the first may stick to the
    second."""
    paths = support.release(tmp_path / 'airgap', lists=False)
    (tmp_path / 'node').mkdir()
    (tmp_path / 'newer').write_bytes(support.elf(support.NATIVE, b'newer'))
    command = (f'sh -c "test -e {tmp_path}/tried || (touch {tmp_path}/tried; '
               f'cp {tmp_path}/newer {paths[support.NATIVE]}; false)" %s')
    task = {'name': 'stage', 'copy': {'src': str(paths[FOREIGN]), 'dest': str(tmp_path / 'other'), 'validate': command},
            'register': 'it', 'until': 'it is succeeded', 'retries': 2, 'delay': 0}
    hosts = {'node': {'k3s_artifact_machine': RIGHT_MACHINE, 'k3s_artifact_dest': str(tmp_path / 'node' / 'k3s')}}
    run = support.play(tmp_path, staging_play([task]), hosts=hosts, env={'ANSIBLE_PIPELINING': 'true'})
    assert run.rc == 0, run.output
    assert run.result('node', 'stage')['attempts'] == 2
    assert (tmp_path / 'node' / 'k3s').read_bytes() == (tmp_path / 'newer').read_bytes()
    assert not (tmp_path / 'other').exists()
