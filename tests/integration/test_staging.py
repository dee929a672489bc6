# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that stage a binary or an archive: what ends on the nodes, and what nodes keep when something is wrong.

Nodes are folders of this machine, one for each host. What runs on them is real: shells, modules, and programs of this
machine's own architecture. Where a test needs an event on the node, it puts a program of its own into the node's PATH.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import time

import pytest

import support
from standin import Standin

NATIVE = support.NATIVE
FOREIGN = 'arm64' if NATIVE == 'amd64' else 'amd64'
BINARY = support.BINARIES[NATIVE]
PIPELINING = {'ANSIBLE_PIPELINING': 'true'}
OLD = support.elf(NATIVE, b'old')


def airgap(folder, program=None):
    """Make an artifact directory with the binaries of all architectures; that of this machine is a program that
    runs."""
    paths = support.release(folder / 'airgap', lists=False)
    paths[NATIVE].write_bytes(program or support.program())
    return paths


def node(folder, host, before=None):
    """Make the folder of a node, with k3s on it if *before* is its content; return the variables of the host."""
    (folder / host / 'bin').mkdir(parents=True)
    if before is not None:
        (folder / host / 'bin' / 'k3s').write_bytes(before)
        (folder / host / 'bin' / 'k3s').chmod(0o755)
    return {'k3s_artifact_dest': str(folder / host / 'bin' / 'k3s'), 'k3s_artifact_dir': str(folder / 'airgap'),
            'node': str(folder / host)}


def native(folder, host='node', before=None, **variables):
    return {**node(folder, host, before), 'k3s_artifact_machine': support.MACHINES[NATIVE], **variables}


def foreign(folder, arch, host=None, **variables):
    return {**node(folder, host or arch), 'k3s_artifact_machine': support.MACHINES[arch],
            'k3s_artifact_probe': False, **variables}


def stage(folder, hosts, *tasks, env=None, arguments=(), **play):
    """Run tasks, each a dictionary of keywords whose arguments of copy are under "copy", on *hosts*; none of them ends
    the run."""
    tasks = [{'ignore_errors': True, **task} for task in tasks]
    return support.play(folder, [{'hosts': 'all', 'gather_facts': False, **play, 'tasks': tasks}], *arguments,
                        hosts=hosts, env={**PIPELINING, **(env or {})})


def on_path(folder, name, text):
    """Put a shell script *name* into the PATH of the nodes; return the environment for that. $real is the program of
    that name."""
    programs = folder / 'programs'
    programs.mkdir(exist_ok=True)
    (programs / name).write_text(f'#!/bin/sh\nreal={shutil.which(name)}\n{text}\n')
    (programs / name).chmod(0o755)
    return {'PATH': f'{programs}:{os.environ["PATH"]}'}


def failed(run, host, task):
    return [entry['status'] for entry in run.results if (entry['host'], entry['task']) == (host, task)] == ['failed']


def installed(folder, host='node'):
    return folder / host / 'bin' / 'k3s'


def beside(folder, host='node'):
    """Return what is in the folder of the node's binary, the binary itself left out."""
    return sorted(path.name for path in (folder / host / 'bin').iterdir() if path.name != 'k3s')


# --- which file, and where to


def test_every_host_gets_its_own_binary_whatever_the_task_names(tmp_path):
    """Each task has an install path of its own, so that each one's file can be looked at."""
    paths = airgap(tmp_path)
    (tmp_path / 'lone').mkdir()
    shutil.copy(paths['riscv64'], tmp_path / 'lone' / 'k3s')
    dest = '{{ k3s_artifact_dest }}'
    tasks = {
        'by the name of one release': {'copy': {'src': str(paths['arm'])}},
        'to the install path': {'copy': {'src': str(paths[NATIVE]), 'dest': dest}},
        'to the folder of the install path': {'copy': {'src': str(paths[NATIVE]),
                                                       'dest': '{{ k3s_artifact_dest | dirname }}/'}},
        'to elsewhere': {'copy': {'src': str(paths[NATIVE]), 'dest': '{{ node }}/elsewhere'}},
        'from the artifact directory': {'copy': {'src': str(tmp_path / 'lone' / 'k3s'), 'dest': dest}},
        'one that is not there': {'copy': {'src': str(tmp_path / 'lone' / 'k3s-arm64'), 'dest': dest}},
        'with first_found': {'copy': {'src': '{{ item }}', 'dest': dest},
                             'with_first_found': [str(tmp_path / 'absent'), str(paths['arm64'])]},
        'loop': {'copy': {'src': str(tmp_path / 'airgap') + '/{{ item }}', 'dest': dest},
                 'loop': ['k3s-arm64', 'k3s', 'k3s-s390x']},
        'with fileglob': {'copy': {'src': '{{ item }}', 'dest': dest},
                          'with_fileglob': [str(tmp_path / 'airgap' / 'k3s-[ar]*[46f]')]},
    }
    hosts = {arch: foreign(tmp_path, arch) if arch != NATIVE else native(tmp_path, arch)
             for arch in (NATIVE, FOREIGN, 'arm', 's390x')}
    for variables in hosts.values():
        variables['k3s_artifact_dest'] = '{{ node }}/bin/{{ place | default("k3s") }}'
    run = stage(tmp_path, hosts,
                *({'name': name, 'vars': {'place': name.replace(' ', '-')}, **task} for name, task in tasks.items()))
    assert run.rc == 0, run.output
    for host in hosts:
        for name in tasks:
            assert support.elf_arch(tmp_path / host / 'bin' / name.replace(' ', '-')) == host, (host, name)
            for result in run.items(host, name) or [run.result(host, name)]:
                assert result['k3s_artifact']['source'] == str(paths[host]), (host, name)
                assert (result['mode'], result['k3s_artifact']['arch']) == ('0755', host)
        assert not (tmp_path / host / 'elsewhere').exists()
        assert [item['changed'] for item in run.items(host, 'loop')] == [True, False, False]
    words = ' '.join(run.output.split())
    assert words.count('is not the install path of K3s: the binary goes to') == len(hosts)
    assert '/elsewhere is not the install path' in words


def test_the_real_install_path_and_its_folder_stand_for_the_configured_one(tmp_path):
    paths = airgap(tmp_path)
    tasks = [{'name': str(dest), 'copy': {'src': str(paths['arm']), **({'dest': dest} if dest else {})}}
             for dest in (None, '/usr/local/bin/k3s', '/usr/local/bin', '/usr/local/bin/')]
    run = stage(tmp_path, {'node': native(tmp_path)}, *tasks, check_mode=True)
    assert {entry['result']['dest'] for entry in run.results} == {str(installed(tmp_path))}
    assert 'WARNING' not in run.output


def test_facts_decide_and_the_node_is_asked_where_there_are_none(tmp_path):
    """With delegate_to, the host on which the file lands decides, by its own variables, its own facts, or its own
    answer."""
    paths = airgap(tmp_path)
    stale = {**node(tmp_path, 'stale'), 'ansible_architecture': support.MACHINES[FOREIGN]}
    hosts = {'asked': node(tmp_path, 'asked'),
             'told': {**node(tmp_path, 'told'), 'ansible_architecture': support.MACHINES[NATIVE]}, 'stale': stale,
             'arm': foreign(tmp_path, 'arm'), 's390x': foreign(tmp_path, 's390x'), 'target': node(tmp_path, 'target')}
    source = {'src': str(paths['riscv64'])}
    run = stage(tmp_path, hosts, {'name': 'stage', 'copy': source},
                {'name': 'for s390x', 'copy': source, 'delegate_to': 's390x', 'when': 'inventory_hostname == "arm"'},
                {'name': 'for target', 'copy': source, 'delegate_to': '{{ item }}', 'loop': ['target', 'arm'],
                 'when': 'inventory_hostname == "s390x"',
                 'vars': {'k3s_artifact_dest': '{{ playbook_dir }}/{{ item }}/bin/delegated'}})
    for host in ('asked', 'told'):
        assert installed(tmp_path, host).read_bytes() == support.program()
        assert run.result(host, 'stage')['k3s_artifact']['machine'] == support.MACHINES[NATIVE]
    refused = run.result('stale', 'stage')
    assert failed(run, 'stale', 'stage') and 'Gather its facts again' in refused['msg']
    assert 'Nothing was changed' in refused['msg']
    assert (f"stale: it says that it is '{support.MACHINES[NATIVE]}', its facts say {support.MACHINES[FOREIGN]}"
            in refused['msg'])
    assert not installed(tmp_path, 'stale').exists() and not beside(tmp_path, 'stale')
    assert run.result('arm', 'for s390x')['k3s_artifact']['arch'] == 's390x'
    assert (support.elf_arch(installed(tmp_path, 'arm')),
            support.elf_arch(installed(tmp_path, 's390x'))) == ('arm', 's390x')
    assert support.elf_arch(tmp_path / 'target' / 'bin' / 'delegated') == NATIVE
    assert support.elf_arch(tmp_path / 'arm' / 'bin' / 'delegated') == 'arm'


def test_gathered_facts_decide(tmp_path):
    paths = airgap(tmp_path)
    run = stage(tmp_path, {'node': node(tmp_path, 'node')}, {'name': 'stage', 'copy': {'src': str(paths['arm'])}},
                gather_facts=True, gather_subset=['!all'])
    assert run.rc == 0, run.output
    assert installed(tmp_path).read_bytes() == support.program()


# --- what is on the node already


def test_what_is_installed_is_told_and_replaced_only_where_it_differs(tmp_path):
    paths = airgap(tmp_path)
    right = support.program()
    before = {'absent': None, 'same': right, 'different': OLD, 'wrong-architecture': support.elf(FOREIGN),
              'other-mode': right, 'same-size': b'x' * len(right)}
    hosts = {host: native(tmp_path, host, content) for host, content in before.items()}
    hosts['link'] = native(tmp_path, 'link')
    installed(tmp_path, 'link').symlink_to('the-real-one')
    (tmp_path / 'link' / 'bin' / 'the-real-one').write_bytes(right)
    installed(tmp_path, 'other-mode').chmod(0o600)
    inodes = {host: installed(tmp_path, host).lstat().st_ino for host in hosts if host != 'absent'}
    tasks = [{'name': 'stage', 'copy': {'src': str(paths[FOREIGN])}, 'notify': 'restart'}]
    check, first, second = ([{'hosts': 'all', 'gather_facts': False, 'tasks': tasks,
                              'handlers': [{'name': 'restart', 'ansible.builtin.debug': {'msg': 'restarted'}}]}]
                            for _run in range(3))
    run = support.play(tmp_path, check, '--check', '--diff', hosts=hosts, env=PIPELINING)
    assert {host: run.result(host, 'stage')['changed'] for host in hosts} == {host: host != 'same' for host in hosts}
    assert 'sha256 ' + support.sha256(paths[NATIVE]) in run.output and '-mode 0600' in run.output
    assert not installed(tmp_path, 'absent').exists() and installed(tmp_path, 'different').read_bytes() == OLD
    run = support.play(tmp_path, first, hosts=hosts, env=PIPELINING)
    assert run.rc == 0, run.output
    assert {host: run.result(host, 'stage')['k3s_artifact']['installed'] for host in hosts} == {
        'absent': 'absent', 'same': 'same', 'different': 'different',
        'wrong-architecture': 'wrong architecture', 'other-mode': 'same',
        'same-size': 'wrong architecture', 'link': 'link'}
    for host in hosts:
        assert installed(tmp_path, host).read_bytes() == right and not installed(tmp_path, host).is_symlink()
        assert installed(tmp_path, host).stat().st_mode & 0o7777 == 0o755
        assert run.result(host, 'stage')['changed'] == (host != 'same')
    assert {entry['host'] for entry in run.results if entry['task'] == 'restart'} == set(hosts) - {'same'}
    unmoved = {host for host in inodes if installed(tmp_path, host).stat().st_ino == inodes[host]}
    assert {'same', 'other-mode'} <= unmoved and 'link' not in unmoved
    assert run.result('absent', 'stage')['k3s_artifact']['version'] == 'v1.31.4+k3s1'
    files = {host: installed(tmp_path, host).stat() for host in hosts}
    run = support.play(tmp_path, second, hosts=hosts, env=PIPELINING)
    assert run.changed() == 0 and not [entry for entry in run.results if entry['task'] == 'restart']
    for host, status in files.items():
        assert ((installed(tmp_path, host).stat().st_ino, installed(tmp_path, host).stat().st_ctime_ns)
                == (status.st_ino, status.st_ctime_ns))
    result = run.result('same', 'stage')
    assert {key: result[key] for key in ('changed', 'dest', 'mode', 'size', 'state', 'checksum', 'uid', 'gid')} == {
        'changed': False, 'dest': str(installed(tmp_path, 'same')), 'mode': '0755', 'size': len(right), 'state': 'file',
        'checksum': support.sha1(paths[NATIVE]), 'uid': os.getuid(), 'gid': installed(tmp_path, 'same').stat().st_gid}


def test_keywords_of_a_task_work_on_a_staging_task(tmp_path):
    paths = airgap(tmp_path)
    log = tmp_path / 'sudo.log'
    on_path(tmp_path, 'sudo', f'echo "$*" >>{log}\n'
            'while [ $# -gt 0 ]; do case $1 in -u) shift 2 ;; -*) shift ;; *) break ;; esac; done\nexec "$@"')
    become = {'become': True, 'vars': {'ansible_become_exe': str(tmp_path / 'programs' / 'sudo'),
                                       'ansible_shell_allow_world_readable_temp': True}}
    source = {'src': str(paths[FOREIGN])}
    tasks = {
        'become': {'copy': source, **become},
        'become another': {'copy': source, **become, 'become_user': 'nobody'},
        'check': {'copy': source, 'check_mode': True},
        'diff': {'copy': source, 'diff': True},
        'hidden': {'copy': source, 'no_log': True, 'diff': True},
        'hidden failure': {'copy': {**source, 'owner': 'no-such-user'}, 'no_log': True},
        'backup': {'copy': {**source, 'backup': True}},
        'validate': {'copy': {**source, 'validate': 'false %s'}},
        'no such owner': {'copy': {**source, 'owner': 'no-such-user'}},
        'registered': {'copy': source, 'register': 'it'},
    }
    hosts = {name.replace(' ', '-'): native(tmp_path, name.replace(' ', '-'), OLD) for name in tasks}
    run = stage(tmp_path, hosts, *({'name': name, 'when': f'inventory_hostname == "{name.replace(" ", "-")}"', **task}
                                   for name, task in tasks.items()),
                {'name': 'show', 'ansible.builtin.debug': {'msg': '{{ it.k3s_artifact.arch }} {{ it is changed }}'},
                 'when': 'it.dest is defined'},
                env={'ANSIBLE_BECOME_ALLOW_SAME_USER': 'true'})
    new = {host for host in hosts if installed(tmp_path, host).read_bytes() == support.program()}
    assert set(hosts) - new == {'check', 'validate', 'hidden-failure', 'no-such-owner'}, run.output
    assert all(installed(tmp_path, host).read_bytes() == OLD for host in set(hosts) - new)
    assert '-u root' in log.read_text() and '-u nobody' in log.read_text()
    # that of core's module
    assert 'src' not in run.result('become', 'become') and 'src' in run.result('become-another', 'become another')
    assert run.result('check', 'check')['changed'] and 'diff' not in run.result('check', 'check')
    [difference] = run.result('diff', 'diff')['diff']
    assert support.sha256(paths[NATIVE]) in difference['after'] and f'size {len(OLD)}' in difference['before']
    for host, task in (('hidden', 'hidden'), ('hidden-failure', 'hidden failure')):
        assert 'censored' in run.result(host, task)
        assert not {'k3s_artifact', 'diff', 'dest', 'msg'} & set(run.result(host, task))
    with open(run.result('backup', 'backup')['backup_file'], 'rb') as backup:
        assert backup.read() == OLD
    assert 'failed to validate' in run.result('validate', 'validate')['msg']
    assert 'no-such-user' in run.result('no-such-owner', 'no such owner')['msg']
    assert run.result('registered', 'show')['msg'] == f'{NATIVE} True'


# --- what is wrong with the node or the file


def test_a_node_that_cannot_take_the_file_is_left_as_it_was(tmp_path):
    paths = airgap(tmp_path)
    hosts = {name: native(tmp_path, name)
             for name in ('directory', 'link-to-directory', 'pipe', 'no-folder', 'relative', 'not-text')}
    installed(tmp_path, 'directory').mkdir()
    (tmp_path / 'link-to-directory' / 'bin' / 'behind').mkdir()
    installed(tmp_path, 'link-to-directory').symlink_to('behind')
    os.mkfifo(installed(tmp_path, 'pipe'))
    (tmp_path / 'no-folder' / 'bin').rmdir()
    hosts['relative']['k3s_artifact_dest'] = 'bin/k3s'
    hosts['not-text']['k3s_artifact_dest'] = ['/bin/k3s']
    messages = {'directory': 'is a directory, not a file', 'link-to-directory': 'is a directory, not a file',
                'pipe': 'is a special file, not a file',
                'no-folder': 'Create it first', 'relative': "k3s_artifact_dest of relative is 'bin/k3s'",
                'not-text': 'k3s_artifact_dest of not-text is ['}
    task = {'copy': {'src': str(paths[FOREIGN])}}
    run = stage(tmp_path, hosts, {'name': 'stage', **task}, {'name': 'check', 'check_mode': True, **task})
    for host, message in messages.items():
        result = run.result(host, 'stage')
        assert failed(run, host, 'stage') and message in result['msg'], (host, result)
        assert host in result['msg'] or 'k3s_artifact_dest' in result['msg']
    assert run.result('no-folder', 'check')['changed']  # the folder may be made by a task of the same play
    assert [os.listdir(tmp_path / 'link-to-directory' / 'bin' / 'behind'),
            os.listdir(installed(tmp_path, 'directory'))] == [[], []]
    assert not (tmp_path / 'no-folder' / 'bin').exists() and beside(tmp_path, 'pipe') == []


def test_a_binary_that_the_node_cannot_run_does_not_replace_the_old_one(tmp_path):
    """k3s_artifact_probe: false installs it unasked."""
    paths = airgap(tmp_path, support.program('no luck', status=1))
    (tmp_path / 'good').mkdir()
    (tmp_path / 'good' / BINARY).write_bytes(support.program())
    hosts = {'probed': native(tmp_path, 'probed', OLD),
             'unprobed': native(tmp_path, 'unprobed', OLD, k3s_artifact_probe=False),
             'plain': native(tmp_path, 'plain', OLD)}
    run = stage(tmp_path, hosts, {'name': 'stage', 'copy': {'src': str(paths[NATIVE]), 'mode': '{{ "0640" if '
                                                            'inventory_hostname == "plain" else omit }}'}})
    refused = run.result('probed', 'stage')
    assert 'the node cannot run the new binary (exit status 1: no luck)' in refused['msg']
    assert 'is still there' in refused['msg']
    assert installed(tmp_path, 'probed').read_bytes() == OLD and beside(tmp_path, 'probed') == []
    for host in ('unprobed', 'plain'):  # one that nobody may run is not run
        assert installed(tmp_path, host).read_bytes() == paths[NATIVE].read_bytes()


def test_a_binary_of_another_release_than_k3s_version_is_an_error_before_anything_is_sent(tmp_path):
    paths = airgap(tmp_path)
    hosts = {'other': native(tmp_path, 'other', OLD, k3s_version='v1.30.0+k3s1'),
             'same': native(tmp_path, 'same', OLD, k3s_version='v1.31.4+k3s1')}
    run = stage(tmp_path, hosts, {'name': 'check', 'copy': {'src': str(paths[NATIVE])}, 'check_mode': True},
                {'name': 'stage', 'copy': {'src': str(paths[NATIVE])}})
    for task in ('check', 'stage'):
        assert failed(run, 'other', task), run.output
        assert 'v1.31.4+k3s1' in run.result('other', task)['msg'] and 'v1.30.0+k3s1' in run.result('other', task)['msg']
    assert installed(tmp_path, 'other').read_bytes() == OLD and beside(tmp_path, 'other') == []
    assert run.result('same', 'stage')['k3s_artifact']['version'] == 'v1.31.4+k3s1'
    assert installed(tmp_path, 'same').read_bytes() == support.program()


@pytest.mark.parametrize('path', ['short path', 'copy of ansible-core'])
def test_a_file_that_changes_after_it_was_verified_is_not_installed(tmp_path, path):
    """The node's uname changes it: the node is asked after the file was verified and before it is sent."""
    paths = airgap(tmp_path)
    env = on_path(tmp_path, 'uname', f'printf x >>{paths[NATIVE]}\nexec $real "$@"')
    args = {'src': str(paths[NATIVE]), **({'backup': True} if path != 'short path' else {})}
    run = stage(tmp_path, {'node': native(tmp_path, before=OLD)}, {'name': 'stage', 'copy': args}, env=env)
    result = run.result('node', 'stage')
    assert failed(run, 'node', 'stage'), run.output
    assert (('was changed during the run' if path == 'short path' else 'does not match the expected checksum')
            in result['msg'])
    assert installed(tmp_path).read_bytes() == OLD
    assert not [name for name in beside(tmp_path) if name.endswith('.part')]


# --- partial files. Over ssh a transfer is continued; files of which no beginning is known go whole.


NOBODY = 2 ** 22 + 5  # more than the number of any process


def leave(folder, source, content, pid=NOBODY, digest=None, age=0, base='k3s'):
    """Leave a partial file, of the process *pid*, of the file *source* in a folder; return its path."""
    path = folder / f'.k3s-artifact.{base}.{digest or support.sha256(source)}.{pid}.part'
    path.write_bytes(content)
    path.chmod(0o600)
    os.utime(path, (time.time() - age,) * 2)
    return path


def sent(standin, host):
    """Return how many bytes went to a host."""
    return sum(call['bytes'] for call in standin.calls() if call['host'] == host)


def test_a_partial_file_is_continued_only_if_it_is_the_beginning_of_the_file(tmp_path):
    """What was sent tells; a second link to each partial file tells whether the installed file is that one or a new
    one."""
    standin, body = Standin(tmp_path), os.urandom(300_000)
    right = support.program(body=body)
    paths = airgap(tmp_path, right)
    prefixes = {'continued': right[:200_000], 'damaged': right[:65536] + b'damaged' + right[65543:200_000],
                'too-long': right + b'x' * 65536,
                'whole': right, 'shorter-than-a-block': right[:1000], 'too-old': right[:200_000]}
    hosts = {host: standin.host(host, support.MACHINES[NATIVE], OLD, k3s_artifact_machine=support.MACHINES[NATIVE])
             for host in prefixes}
    for host, content in prefixes.items():
        folder = standin.installed(host).parent
        part = leave(folder, paths[NATIVE], content, age=2 * 86400 if host == 'too-old' else 0)
        os.link(part, standin.nodes / host / 'witness')
        leave(folder, paths[NATIVE], b'of another digest', digest='0' * 64)
        leave(folder, paths[NATIVE], b'of another file, of the day before yesterday', digest='1' * 64,
              base='other', age=2 * 86400)
        leave(folder, paths[NATIVE], b'of another digest, of a process that lives', digest='2' * 64, pid=os.getpid())
        (folder / 'not-ours.part').write_text('keep')
    run = standin.stage(hosts, {'name': 'stage', 'copy': {'src': str(paths[FOREIGN])}}, arguments=['--forks', '2'])
    assert run.rc == 0, run.output
    for host in hosts:
        assert standin.installed(host).read_bytes() == right, host
        assert standin.beside(host) == [f'.k3s-artifact.k3s.{"2" * 64}.{os.getpid()}.part', 'not-ours.part'], host
    continued = {host for host in hosts
                 if standin.installed(host).stat().st_ino == (standin.nodes / host / 'witness').stat().st_ino}
    assert continued == {'continued', 'whole'}
    for host, there in (('continued', 200_000 // 65536 * 65536), ('whole', len(right)), ('damaged', 0),
                        ('too-long', 0), ('too-old', 0)):
        assert len(right) - there <= sent(standin, host) < len(right) - there + 1000, host
        assert run.result(host, 'stage')['k3s_artifact']['bytes_to_send'] == len(right) - there


def test_a_transfer_that_breaks_off_leaves_a_partial_file_that_the_next_run_continues(tmp_path):
    """For an archive it is outside the folder that K3s watches, and neither has the suffix of an archive nor can be
    run."""
    standin, megabyte = Standin(tmp_path), 1 << 20
    right = support.program(body=os.urandom(5 * megabyte))
    paths = airgap(tmp_path, right)
    archive = tmp_path / 'airgap' / f'k3s-airgap-images-{NATIVE}.tar.zst'
    layer = ('layer', os.urandom(5 * megabyte))
    archive.write_bytes(support.zst(support.image_archive(NATIVE, members=[layer])))
    agent = standin.nodes / 'node' / 'agent'
    hosts = {'node': standin.host('node', support.MACHINES[NATIVE], OLD)}
    (agent / 'images').mkdir(parents=True)
    tasks = [{'name': 'binary', 'copy': {'src': str(paths[NATIVE])}, 'ignore_errors': True},
             {'name': 'archive', 'copy': {'src': str(archive), 'dest': f'{agent}/images/'}, 'ignore_errors': True}]
    standin.program('node', 'dd', 'case $* in *seek=0*count=*|*seek=*count=*fsync*) head -c 3000000 | $real '
                    'of="${1#of=}" bs=65536 conv=notrunc; '
                    'echo No space left >&2; exit 1 ;; *) exec $real "$@" ;; esac')
    run = standin.stage(hosts, *tasks)
    parts = {}
    for name, folder in (('binary', standin.installed('node').parent), ('archive', agent)):
        assert 'cannot be written on the node: ' in run.result('node', name)['msg'], run.output
        assert 'No space left' in run.result('node', name)['msg']
        kept = 'is still there' if name == 'binary' else f'Nothing is at {agent}/images/{archive.name}'
        assert kept in run.result('node', name)['msg']
        [parts[name]] = folder.glob('.k3s-artifact.*.part')
        assert 2_900_000 < parts[name].stat().st_size < 5 * megabyte and parts[name].stat().st_mode & 0o777 == 0o600
        os.link(parts[name], standin.nodes / 'node' / name)
    assert standin.installed('node').read_bytes() == OLD and os.listdir(agent / 'images') == []
    standin.program('node', 'dd', 'exec $real "$@"')
    standin.forget()
    run = standin.stage(hosts, *tasks)
    assert run.rc == 0, run.output
    for name, source, target in (('binary', paths[NATIVE], standin.installed('node')),
                                 ('archive', archive, agent / 'images' / archive.name)):
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_ino == (standin.nodes / 'node' / name).stat().st_ino
    assert sent(standin, 'node') < 2 * 3 * megabyte
    assert [standin.beside('node'), os.listdir(agent)] == [[], ['images']]


# --- what check mode says is what the run then does


def a_state(chance, folder, paths):
    """Put a node's folder into a state by chance; return the arguments of the task on it and the variables of the
    host."""
    right = paths[NATIVE].read_bytes()
    target = folder / 'bin' / 'k3s'
    make = {
        'absent': lambda: None, 'same': lambda: target.write_bytes(right),
        'different': lambda: target.write_bytes(OLD + b'x' * chance.choice([0, len(right) - len(OLD)])),
        'foreign': lambda: target.write_bytes(paths[FOREIGN].read_bytes()),
        'text': lambda: target.write_bytes(b'#!/bin/sh'), 'directory': target.mkdir,
        'pipe': lambda: os.mkfifo(target), 'dangling': lambda: target.symlink_to('nowhere'),
        'link': support.in_turn(lambda: (folder / 'real').write_bytes(right),
                                lambda: target.symlink_to(folder / 'real')),
        'to a directory': lambda: target.symlink_to('.'),
        'newer': lambda: target.write_bytes(support.program('k3s version v1.99.0+k3s1 (newer)')),
    }
    state = chance.choice(sorted(make))
    make[state]()
    if target.is_file():
        target.chmod(chance.choice([0o755, 0o755, 0o600, 0o4755]))
    if chance.random() < 0.5:
        content = chance.choice([right[:70_000], right, right + b'more', b'X' + right[1:70_000]])
        leave(folder / 'bin', paths[NATIVE], content, pid=chance.choice([NOBODY, os.getpid()]))
    if chance.random() < 0.2:
        (folder / 'bin').rename(folder / 'other')
        (folder / 'bin').symlink_to('other')
    arguments = {'src': str(paths[chance.choice(sorted(paths))]), 'mode': chance.choice(['0755', '0755', '0700']),
                 'dest': '{{ k3s_artifact_dest }}'}
    if chance.random() < 0.3:
        arguments['owner'] = chance.choice([pwd.getpwuid(os.getuid()).pw_name, os.getuid()])
    machine = {} if chance.random() < 0.8 else {'ansible_architecture': support.MACHINES[FOREIGN]}
    return state, arguments, {**machine, **({'k3s_artifact_downgrade': True} if chance.random() < 0.2 else {})}


@pytest.mark.parametrize('connection', ['ssh', 'local'])
@pytest.mark.parametrize('seed', range(int(os.environ.get('K3S_ARTIFACT_FUZZ_EXAMPLES', '20')) // 10))
def test_what_check_mode_says_is_what_the_run_then_does_and_the_next_run_does_nothing(tmp_path, connection, seed):
    standin, chance = Standin(tmp_path), random.Random(f'{seed} {connection}')
    paths = airgap(tmp_path, support.program(body=os.urandom(200_000)))
    hosts, states, before = {}, {}, {}
    for number in range(10):
        host = f'n{number}'
        hosts[host] = standin.host(host, support.MACHINES[NATIVE], ansible_connection=connection)
        states[host], arguments, variables = a_state(chance, standin.nodes / host, paths)
        hosts[host].update(arguments=arguments, **variables)
    task = {'name': 'stage', 'copy': '{{ arguments }}', 'ignore_errors': True}
    for host in hosts:
        before[host] = {path.name: (path.lstat().st_ino, path.lstat().st_mtime_ns)
                        for path in sorted((standin.nodes / host).rglob('*'))}
    check = standin.stage(hosts, task, arguments=['--check'])
    for host in hosts:
        assert before[host] == {path.name: (path.lstat().st_ino, path.lstat().st_mtime_ns)
                                for path in sorted((standin.nodes / host).rglob('*'))}
    real, again = standin.stage(hosts, task), standin.stage(hosts, task)
    for host in hosts:
        said, done, then = (run.result(host, 'stage') for run in (check, real, again))
        case = (seed, host, states[host], hosts[host], said, done)
        fails = failed(real, host, 'stage')
        assert (failed(check, host, 'stage'), said['changed']) == (fails, done['changed']), case
        assert (failed(again, host, 'stage'), then['changed']) == (fails, False), case
        if fails:
            assert said['msg'] == done['msg'], case
            continue
        for key in ('installed', 'action', 'bytes_to_send', 'source', 'sha256'):
            assert said['k3s_artifact'][key] == done['k3s_artifact'][key], (key, *case)
        assert (said['mode'], said['size'], said['dest'], said['checksum']) == (done['mode'], done['size'],
                                                                                done['dest'], done['checksum']), case
        assert standin.installed(host).read_bytes() == paths[NATIVE].read_bytes()
        assert not standin.installed(host).is_symlink()
        assert f'{standin.installed(host).stat().st_mode & 0o7777:04o}' == hosts[host]['arguments']['mode']


# --- image archives


def test_archives_of_other_architectures_and_other_compressions_are_left_out(tmp_path):
    """As users write the tasks. What is for the user's home folder, as with rootless K3s, is in check mode: it would be
    a real one."""
    airgap(tmp_path)
    source = tmp_path / 'airgap'
    for name in ('busybox.tar.zst', 'busybox.tar.gz', 'busybox.tar', f'extra-{NATIVE}.tar', f'extra-{FOREIGN}.tar'):
        (source / name).write_bytes(support.image_file(name, 'amd64', 'arm64', 'arm', 'riscv64'))
    (tmp_path / 'files').mkdir()
    (tmp_path / 'files' / 'airgap').symlink_to(source)
    hosts = {NATIVE: native(tmp_path, NATIVE), FOREIGN: foreign(tmp_path, FOREIGN), 'other': node(tmp_path, 'other')}
    hosts['other']['k3s_artifact_machine'] = 'riscv64'
    suffixes = ('*.tar.zst', '*.tar.gz', '*.tar')
    tasks = {
        'absolute': ([f'{source}/{suffix}' for suffix in suffixes], '{{ node }}/absolute/agent/images/'),
        'relative': ([f'./airgap/{suffix}' for suffix in suffixes], '{{ node }}/relative/agent/images'),
        'home': ([f'{source}/*.tar*'], '~/k3s-artifact-test/agent/images/'),
    }
    tasks = [{'name': name, 'copy': {'src': '{{ item }}', 'dest': dest}, 'with_fileglob': patterns,
              'check_mode': name == 'home'} for name, (patterns, dest) in tasks.items()]
    tasks.append({'name': 'one', 'copy': {'src': f'{source}/extra-{FOREIGN}.tar',
                                          'dest': '{{ node }}/one/agent/images/renamed.tar', 'mode': '0600'}})
    run = stage(tmp_path, hosts, *tasks)
    assert run.rc == 0, run.output
    for host, arch in ((NATIVE, NATIVE), (FOREIGN, FOREIGN), ('other', 'riscv64')):
        wanted = {'busybox.tar.zst', f'k3s-airgap-images-{arch}.tar.zst', f'extra-{arch}.tar'} - {'extra-riscv64.tar'}
        homes = [entry['result'] for entry in run.results if entry['item']
                 and (entry['host'], entry['task'], entry['status']) == (host, 'home', 'ok')]
        assert {os.path.basename(result['dest']) for result in homes} == wanted
        assert ({os.path.dirname(result['dest']) for result in homes}
                == {pwd.getpwuid(os.getuid()).pw_dir.rstrip('/') + '/k3s-artifact-test/agent/images'})
        for name, images in (('absolute', tmp_path / host / 'absolute'), ('relative', tmp_path / host / 'relative')):
            assert {path.name for path in (images / 'agent' / 'images').iterdir()} == wanted, (host, name)
            assert os.listdir(images / 'agent') == ['images']
            for path in (images / 'agent' / 'images').iterdir():
                assert path.read_bytes() == (source / path.name).read_bytes() and path.stat().st_mode & 0o777 == 0o644
            skipped = [entry['result'] for entry in run.results if entry['item']
                       and (entry['host'], entry['task'], entry['status']) == (host, name, 'skipped')]
            assert ({item['item'].rpartition('/')[2] for item in skipped}
                    == {path.name for path in source.glob('*.tar*')} - wanted)
            reasons = {item['item'].rpartition('/')[2]: item['skip_reason'] for item in skipped}
            assert 'the same archive as busybox.tar.zst' in reasons['busybox.tar.gz']
            assert f'is for arm, {host} is {arch}' in reasons['k3s-airgap-images-arm.tar.zst']
    assert not (tmp_path / NATIVE / 'one').exists() and 'skip_reason' in run.result(NATIVE, 'one')
    renamed = tmp_path / FOREIGN / 'one' / 'agent' / 'images' / 'renamed.tar'
    assert renamed.read_bytes() == (source / f'extra-{FOREIGN}.tar').read_bytes()
    assert renamed.stat().st_mode & 0o777 == 0o600


def test_an_archive_that_is_right_already_is_not_touched(tmp_path):
    """K3s imports again what has another time or size. One that differs is replaced by a rename."""
    airgap(tmp_path)
    hosts = {host: foreign(tmp_path, FOREIGN, host) for host in ('same', 'different')}
    archive = tmp_path / 'airgap' / f'k3s-airgap-images-{FOREIGN}.tar.zst'
    for host, content in (('same', archive.read_bytes()), ('different', b'x' * archive.stat().st_size)):
        (tmp_path / host / 'agent' / 'images').mkdir(parents=True)
        target = tmp_path / host / 'agent' / 'images' / archive.name
        target.write_bytes(content)
        os.utime(target, (1_700_000_000,) * 2)
        os.link(target, tmp_path / host / 'witness')
    run = stage(tmp_path, hosts, {'name': 'stage', 'copy': {'src': str(archive), 'dest': '{{ node }}/agent/images/'}})
    kept, replaced = (tmp_path / host / 'agent' / 'images' / archive.name for host in ('same', 'different'))
    assert kept.stat().st_ino == (tmp_path / 'same' / 'witness').stat().st_ino and kept.stat().st_mtime == 1_700_000_000
    assert replaced.read_bytes() == archive.read_bytes()
    assert (tmp_path / 'different' / 'witness').read_bytes() == b'x' * archive.stat().st_size
    assert (run.result('same', 'stage')['changed'], run.result('different', 'stage')['changed']) == (False, True)
