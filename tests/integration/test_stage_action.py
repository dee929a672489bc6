# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On all hosts or on none: what stops a run of the playbook stage, and that it stops it everywhere.

Three pretend nodes, folders of this machine, of which one, "bad", cannot be served.
"""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest

import support
from standin import HERE, Standin

NODES = ('good', 'bad', 'other')
KINDS = ('archive', 'binary', 'script')


class Cluster:
    """Pretend nodes in a folder, all of this machine's own architecture, whose binaries are programs that run."""

    def __init__(self, folder):
        self.folder, self.airgap, self.hosts = folder, folder / 'airgap', {}
        self.airgap.mkdir()
        self.binary = self.airgap / support.BINARIES[support.NATIVE]
        self.binary.write_bytes(support.program(body=bytes(200000)))
        (self.airgap / f'k3s-airgap-images-{support.NATIVE}.tar').write_bytes(support.image_archive(support.NATIVE)
                                                                              + bytes(300000))
        (self.airgap / 'k3s-install.sh').write_text('#!/bin/sh\n')
        for name in NODES:
            (self.node(name) / 'bin').mkdir(parents=True)
            self.hosts[name] = {
                'k3s_artifact_machine': support.MACHINES[support.NATIVE], 'k3s_artifact_become': False,
                'k3s_artifact_dir': str(self.airgap),
                'k3s_artifact_dest': f'{self.node(name)}/bin/k3s', 'k3s_artifact_data_dir': f'{self.node(name)}/k3s'}

    def node(self, name):
        return self.folder / 'nodes' / name

    def inventory(self, group='k3s_cluster'):
        path = self.folder / 'inventory.json'
        local = {'ansible_connection': 'local', 'ansible_python_interpreter': sys.executable}
        path.write_text(
            json.dumps({group: {'hosts': {name: {**local, **variables} for name, variables in self.hosts.items()}}}))
        return path

    def run(self, playbook='airgap.k3s.stage', *arguments, env=None, group='k3s_cluster'):
        programs = self.folder / 'programs'
        path = ({'PATH': f'{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'}
                if programs.exists() else {})
        return support.play(self.folder, playbook, *arguments, hosts=self.inventory(group), home='collection',
                            env={**path, **(env or {})})

    def program(self, name, text):
        """Put a shell script before a program of the nodes; $real is that program. Folders tell which node it is
        for."""
        (self.folder / 'programs').mkdir(exist_ok=True)
        path = self.folder / 'programs' / name
        path.write_text(f'#!/bin/sh\nreal={shutil.which(name)}\n{text}\nexec $real "$@"\n')
        path.chmod(0o755)

    def files(self, *names):
        """Return the names of all files on the nodes, partial ones as PARTIAL."""
        paths = (path for name in names or NODES for path in self.node(name).rglob('*')
                 if path.is_file() or path.is_symlink())
        return sorted(re.sub(r'\.k3s-artifact\..*', 'PARTIAL', str(path.relative_to(self.folder / 'nodes')))
                      for path in paths)

    def complete(self, name):
        return sorted([f'{name}/bin/k3s', f'{name}/bin/k3s-install.sh',
                       f'{name}/k3s/agent/images/k3s-airgap-images-{support.NATIVE}.tar'])


@pytest.fixture(name='cluster')
def fixture_cluster(tmp_path):
    return Cluster(tmp_path)


def recap(run):
    """Return what the recap counts for each host."""
    lines = re.findall(r'^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)',
                       run.output, re.MULTILINE)
    return {name: {'changed': int(changed), 'unreachable': int(unreachable), 'failed': int(failed)}
            for name, changed, unreachable, failed in lines}


def looked(run, name):
    """Return what the first look found of a host."""
    return run.result(name, 'Look at what each host gets')['k3s_artifact']


def assert_stopped(run, text, unreachable=False):
    """Check that the run failed on the host "bad", and on no other, and says why."""
    assert run.rc != 0, run.output
    # The table breaks a long path between its lines; the report has each sentence whole.
    rows = [row for entry in run.results for row in entry['result'].get('hosts', [])]
    whole = [problem for row in rows for problem in row['problems']]
    assert re.search(text, ' '.join([*run.output.split(), *whole])), run.output
    assert recap(run) == {name: {'changed': 0, 'unreachable': int(unreachable and name == 'bad'),
                                 'failed': int(not unreachable and name == 'bad')}
                          for name in NODES}
    assert 'Traceback' not in run.output


# --- before anything is sent ---------------------------------------------------------------------------------------


def no_folder(cluster, bad):
    bad['k3s_artifact_dest'] = f'{cluster.node("bad")}/nowhere/k3s'


def blocked(cluster, _bad):
    (cluster.node('bad') / 'k3s').symlink_to('/nowhere')


def read_only(_cluster, bad):
    bad['k3s_artifact_dest'] = '/proc/sys/k3s'


def no_room(cluster, _bad):
    cluster.program('df', 'case "$*" in */nodes/bad*) echo "/dev/sda1 1000 900 400 90% /"; exit 0 ;; esac')


def directory_there(cluster, _bad):
    (cluster.node('bad') / 'bin' / 'k3s').mkdir()


def another_machine(_cluster, bad):
    del bad['k3s_artifact_machine']
    bad['ansible_architecture'] = 'riscv64'
    bad['k3s_binary_map'] = {'riscv64': support.BINARIES[support.NATIVE]}
    bad['k3s_artifact_verify'] = 'none'


def no_release(_cluster, bad):
    bad['k3s_artifact_machine'] = 'i686'


def missing_file(_cluster, bad):
    bad['k3s_artifact_machine'] = 's390x'


def no_artifact_directory(_cluster, bad):
    bad['k3s_artifact_dir'] = '/nowhere'


def undefined(_cluster, bad):
    bad['k3s_artifact_dir'] = '{{ not_there }}/airgap'


def no_switch(_cluster, bad):
    bad['k3s_artifact_probe'] = 'perhaps'


def relative_path(_cluster, bad):
    bad['k3s_artifact_data_dir'] = 'var/lib/rancher/k3s'


def newer_on_the_node(cluster, _bad):
    newer = cluster.node('bad') / 'bin' / 'k3s'
    newer.write_bytes(support.program('k3s version v1.32.0+k3s1 (abcdef12)'))
    newer.chmod(0o755)


def no_connection_plugin(_cluster, bad):
    bad['ansible_connection'] = 'nothing.like.it'


REASONS = {
    no_folder: 'bad: the folder .*/nowhere does not exist. Create it first',
    blocked: '.*/nodes/bad/k3s is in the way of the folder .*/bad/k3s/agent/images: it is a dangling link or a file',
    read_only: 'cannot write to /proc/sys on the node, or its file system is read-only. .* or set '
    'k3s_artifact_dest to a path',
    no_room: 'bad: 51[0-9]{4} bytes are needed in .*/bin and .*/agent/images on the node, 409600 are free',
    directory_there: '.*/nodes/bad/bin/k3s is a directory, not a file',
    another_machine: "bad: it says that it is '[a-z0-9_]+', its facts say riscv64",
    no_release: "no release for the machine i686 of host 'bad'",
    missing_file: "no K3s binary for host 'bad'",
    no_artifact_directory: "the artifact directory of host 'bad' .* does not exist",
    undefined: 'not_there.* is undefined',
    no_switch: "k3s_artifact_probe of bad is 'perhaps'. Set it to true or false",
    relative_path: "k3s_artifact_data_dir of bad is 'var/lib/rancher/k3s/agent/images'. Set it to an absolute path",
    newer_on_the_node: 'bad: it has K3s v1.32.0[+]k3s1, and .* is v1.31.4[+]k3s1: .* Set k3s_artifact_downgrade: true',
    no_connection_plugin: 'nothing.like.it',
}


@pytest.mark.parametrize('spoil', REASONS, ids=lambda spoil: spoil.__name__)
def test_a_host_that_cannot_be_served_keeps_every_file_from_every_node(cluster, spoil):
    spoil(cluster, cluster.hosts['bad'])
    before = cluster.files()
    run = cluster.run()
    assert_stopped(run, REASONS[spoil])
    assert cluster.files() == before
    assert not any(entry['task'].startswith('Send') for entry in run.results)


def test_a_node_that_cannot_be_reached_keeps_every_file_from_every_node(cluster):
    cluster.hosts['bad'].update(ansible_connection='ssh', ansible_host='127.0.0.1', ansible_port=1)
    run = cluster.run()
    assert_stopped(run, 'bad is unreachable: .*Connection refused', unreachable=True)
    assert cluster.files() == []


def test_all_problems_of_a_host_are_named_at_once_and_each_once(cluster):
    no_folder(cluster, cluster.hosts['bad'])
    blocked(cluster, cluster.hosts['bad'])
    cluster.hosts['bad']['k3s_artifact_dir'] = str(cluster.folder / 'other')
    shutil.copytree(cluster.airgap, cluster.folder / 'other')
    (cluster.folder / 'other' / cluster.binary.name).write_text('<html>404</html>')
    run = cluster.run('airgap.k3s.preflight')
    problems = looked(run, 'bad')['problems']
    assert [next(text for text in ('HTML page', 'nowhere does not exist', 'in the way') if text in problem)
            for problem in problems] == [
        'HTML page', 'nowhere does not exist', 'in the way']
    assert_stopped(run, 'HTML page')


def test_a_downgrade_on_purpose_is_staged(cluster):
    newer_on_the_node(cluster, cluster.hosts['bad'])
    run = cluster.run('airgap.k3s.stage', '-e', 'k3s_artifact_downgrade=true')
    assert run.rc == 0, run.output
    assert (looked(run, 'bad')['node_version'], looked(run, 'bad')['version']) == ('v1.32.0+k3s1', 'v1.31.4+k3s1')
    assert cluster.files() == sorted(file for name in NODES for file in cluster.complete(name))


def test_archives_that_are_no_longer_needed_on_a_node_are_named_and_left_there(cluster):
    images = cluster.node('good') / 'k3s' / 'agent' / 'images'
    images.mkdir(parents=True)
    for name in ('k3s-airgap-images-s390x.tar.gz', 'own.tar'):
        (images / name).write_text('')
    run = cluster.run('airgap.k3s.stage', '-e', 'k3s_artifact_proble=false')
    assert run.rc == 0, run.output
    assert looked(run, 'good')['superseded'] == ['k3s-airgap-images-s390x.tar.gz']
    assert (images / 'k3s-airgap-images-s390x.tar.gz').exists()
    assert (looked(run, 'good')['warnings']
            == ['k3s_artifact_proble is no variable of this collection. Perhaps k3s_artifact_probe was meant.'])


def test_room_is_asked_for_all_files_of_a_file_system_together(cluster):
    cluster.program('df', 'case "$*" in */nodes/bad*) echo "/dev/sda1 1000 900 400 90% /"; exit 0 ;; esac')
    assert cluster.binary.stat().st_size < 409600  # each of them has room
    assert_stopped(cluster.run(), REASONS[no_room])


@pytest.mark.parametrize('callback', ['default', 'minimal'])
def test_a_wrong_artifact_directory_of_all_hosts_is_said_once_to_people_and_whole_to_programs(cluster, callback):
    for variables in cluster.hosts.values():
        variables['k3s_artifact_dir'] = '/nowhere'
    run = cluster.run('airgap.k3s.preflight', env={'ANSIBLE_STDOUT_CALLBACK': callback})
    assert run.rc != 0
    stopped = {entry['host']: entry['result']['msg'] for entry in run.results
               if (entry['task'], entry['status']) == ('Stop if a host cannot be served', 'failed')}
    assert set(stopped) == set(NODES)
    if callback == 'default':
        assert set(stopped.values()) == {'1 problem: see the report above.'}
        shown = ' '.join(run.output.split())
        assert shown.count('/nowhere') == 1 and 'good, bad, other: ' in shown, run.output
        assert len(run.output.splitlines()) < 50, run.output
    else:
        assert all(f"host '{name}'" in text and 'there is no /nowhere' in text for name, text in stopped.items())


# --- while it is sent ------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_in_between_leaves_every_node_as_it_was_and_the_next_run_completes(cluster):
    cluster.program('dd', 'case "$*" in *of=*/nodes/bad/*airgap-images*) echo "dd: No space left on device" '
                    '>&2; exit 1 ;; esac')
    run = cluster.run()
    assert_stopped(run, 'bad: .*k3s-airgap-images.* cannot be written on the node: .*No space left on device')
    assert all(name.endswith('PARTIAL') for name in cluster.files())
    shutil.rmtree(cluster.folder / 'programs')
    again = cluster.run()
    assert again.rc == 0, again.output
    assert cluster.files() == sorted(file for name in NODES for file in cluster.complete(name))
    for name in NODES:
        sent = {row['kind']: row['bytes_to_send'] for row in looked(again, name)['files']}
        assert sent['binary'] == 0 and (sent['archive'] == 0) == (name != 'bad'), (name, sent)


def test_a_binary_that_does_not_run_on_one_node_is_in_place_on_none(cluster):
    other = cluster.folder / 'other'
    shutil.copytree(cluster.airgap, other)
    (other / cluster.binary.name).write_bytes(support.program('Exec format error', status=126))
    cluster.hosts['bad']['k3s_artifact_dir'] = str(other)
    run = cluster.run()
    assert_stopped(run, r'bad: the node cannot run the new binary \(exit status 126: Exec format error')
    assert all(name.endswith('PARTIAL') for name in cluster.files())
    cluster.hosts['bad']['k3s_artifact_dir'] = str(cluster.airgap)
    again = cluster.run()
    assert again.rc == 0, again.output
    assert {name: looked(again, name)['bytes_to_send'] > 0 for name in NODES} == {
        'good': False, 'bad': True, 'other': False}


def test_what_waits_is_executable_for_nobody_and_says_what_it_is(cluster):
    cluster.program('dd', 'case "$*" in *of=*/nodes/bad/*) exit 1 ;; esac')
    run = cluster.run()
    sent = run.result('good', 'Send what is missing to where it waits')
    assert {row['kind']: row['came'] for row in sent['k3s_artifact']['files']} == dict.fromkeys(KINDS, 'waiting')
    assert sent['changed'] is False and sent['k3s_artifact']['version'] == 'v1.31.4+k3s1'
    partial = list(cluster.node('good').rglob('.k3s-artifact.*'))
    assert len(partial) == 3 and all(path.stat().st_mode & 0o7777 == 0o600 for path in partial)


# --- while it is put in place ----------------------------------------------------------------------------------------


def test_a_host_whose_rename_fails_is_named_with_what_it_has_and_what_it_has_not(cluster):
    cluster.program('mv', 'case "$*" in *nodes/bad/bin/k3s) echo "mv: busy" >&2; exit 1 ;; esac')
    run = cluster.run('airgap.k3s.stage', '-e', f'k3s_artifact_report={cluster.folder}/report')
    assert run.rc != 0
    problem, = run.result('bad', 'Put everything in place')['k3s_artifact']['problems']
    assert re.search(r'bad/bin/k3s cannot be replaced: mv: busy.* Of this run it has .*tar, .*/k3s-install.sh, and not '
                     r'.*/bad/bin/k3s\.$', problem)
    assert recap(run)['bad'] == {'changed': 1, 'unreachable': 0, 'failed': 1}
    assert cluster.files('good', 'other') == sorted(cluster.complete('good') + cluster.complete('other'))
    rows = {row['host']: row for row in json.loads((cluster.folder / 'report.json').read_text())['hosts']}
    assert {row['kind']: row['came'] for row in rows['bad']['files']} == {'archive': 'pushed',
                                                                          'script': 'pushed', 'binary': 'waiting'}
    shutil.rmtree(cluster.folder / 'programs')
    again = cluster.run()
    assert again.rc == 0
    assert {name: counts['changed'] for name, counts in recap(again).items()} == {'good': 0, 'bad': 1, 'other': 0}
    assert looked(again, 'bad')['bytes_to_send'] == 0


def test_the_binary_is_the_last_to_be_put_in_place(cluster):
    cluster.program('mv', 'case "$*" in *nodes/good*) for last; do :; done; echo "$last" '
                    f'>>{cluster.folder}/renames ;; esac')
    assert cluster.run().rc == 0
    names = [line.rpartition('/')[2] for line in (cluster.folder / 'renames').read_text().splitlines()]
    assert [name for name in names if not name.startswith('.')] == [f'k3s-airgap-images-{support.NATIVE}.tar',
                                                                    'k3s-install.sh', 'k3s']


def test_what_the_step_send_did_not_note_is_not_put_in_place(cluster):
    tasks = [{'ansible.builtin.set_fact': {'sent': {'k3s_artifact': {'files': []},
                                                    'sent': [{'dest': '/etc/passwd', 'kind': 'binary'}]}}},
             {'name': 'place', 'airgap.k3s.stage': {'step': 'place', 'of': 'sent'}}]
    run = cluster.run([{'hosts': 'good', 'gather_facts': False, 'tasks': tasks}])
    assert run.rc != 0 and 'is not what it notes' in run.result('good', 'place')['msg']


# --- each host for itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('phase', ['look', 'send'])
def test_keep_going_stages_what_can_be_and_fails_at_the_end(cluster, phase):
    if phase == 'look':
        no_folder(cluster, cluster.hosts['bad'])
    else:
        cluster.program('dd', 'case "$*" in *of=*/nodes/bad/*) exit 1 ;; esac')
    run = cluster.run('airgap.k3s.stage', '-e', 'k3s_artifact_keep_going=true')
    assert run.rc != 0
    assert recap(run) == {name: {'changed': int(name != 'bad'), 'unreachable': 0, 'failed': int(name == 'bad')}
                          for name in NODES}
    assert not any('PARTIAL' not in name for name in cluster.files('bad'))
    assert cluster.files('good', 'other') == sorted(cluster.complete('good') + cluster.complete('other'))


@pytest.mark.parametrize('goes_on', [True, False])
@pytest.mark.parametrize('program, pattern', [('dd', '*of=*/nodes/bad/*'), ('mv', '*nodes/bad/bin/k3s')],
                         ids=['while it is sent', 'while it is put in place'])
def test_a_host_whose_task_ansible_ends_is_one_that_failed(cluster, program, pattern, goes_on):
    """By task_timeout: the action ends in the middle, and has no result of its own."""
    cluster.program(program, f'case "$*" in {pattern}) exec sleep 90 ;; esac')
    run = cluster.run('airgap.k3s.stage', '-e', f'k3s_artifact_keep_going={goes_on}',
                      env={'ANSIBLE_TASK_TIMEOUT': '12'})
    assert run.rc != 0
    assert re.search('in the expected time frame|Timed out after 12 second', ' '.join(run.output.split())), run.output
    others = goes_on or program == 'mv'  # renames are done on all hosts at once
    assert recap(run) == {name: {'changed': int(others and name != 'bad'), 'unreachable': 0,
                                 'failed': int(name == 'bad')} for name in NODES}, run.output
    assert cluster.files('good', 'other') == sorted(
        cluster.complete('good') + cluster.complete('other')) if others else not any(
        'PARTIAL' not in name for name in cluster.files())


@pytest.mark.parametrize('first, second', [
    ('apps.tar', 'apps.tar.extra.tar'), (f'registry.example.com_{"x" * 100}_alpha.tar',
                                         f'registry.example.com_{"x" * 100}_beta.tar')], ids=['a dot', 'long'])
def test_archives_whose_names_begin_alike_do_not_take_each_others_partial_files_away(cluster, first, second):
    for name in (first, second):
        (cluster.airgap / name).write_bytes(support.image_archive(support.NATIVE) + name.encode())
    there = cluster.node('bad') / 'k3s' / 'agent' / 'images' / first
    there.parent.mkdir(parents=True)
    there.write_bytes((cluster.airgap / first).read_bytes())
    run = cluster.run()
    assert run.rc == 0, run.output
    assert cluster.files() == sorted(file for name in NODES for file in (
        *cluster.complete(name), *(f'{name}/k3s/agent/images/{archive}' for archive in (first, second))))


# --- hosts, strategies, batches --------------------------------------------------------------------------------------


def test_without_the_group_it_is_an_error_that_names_the_groups(cluster):
    run = cluster.run(group='web')
    assert run.rc != 0
    assert ('No host is k3s_cluster. The groups of the inventory are web. Name the group or the pattern of '
            'the hosts that get K3s with -e k3s_artifact_hosts=<group>: in the inventory that variable is not read.'
            in ' '.join(run.output.split()))
    assert cluster.files() == [] and not run.results
    assert cluster.run('airgap.k3s.stage', '-e', 'k3s_artifact_hosts=web', group='web').rc == 0
    cluster.hosts = {'localhost': cluster.hosts['good']}
    alone = cluster.run(group='web')
    assert alone.rc != 0 and 'No host is k3s_cluster.' in ' '.join(alone.output.split())


@pytest.mark.parametrize('playbook', ['preflight', 'stage', 'check', 'rollback'])
@pytest.mark.parametrize('text', [None, '', 'k3s_cluster: {hosts: {}}', 'k3s_cluster: ['],
                         ids=['mistyped', 'empty', 'nobody in it', 'no YAML'])
def test_an_inventory_without_a_host_that_can_be_read_is_no_success(tmp_path, playbook, text):
    inventory = tmp_path / 'hosts.yml'
    if text is not None:
        inventory.write_text(text)
    run = support.play(tmp_path, f'airgap.k3s.{playbook}', hosts=inventory, home='collection')
    assert run.rc != 0
    assert (f'No host is k3s_cluster: the inventory ({inventory}) holds none that can be read. Name the file of your '
            'hosts with -i.' in ' '.join(run.output.split()).replace(' )', ')'))
    assert len(run.results) == 1


@pytest.mark.parametrize('strategy', ['free', 'host_pinned', 'debug', 'linear'])
def test_the_strategy_of_the_configuration_changes_nothing(cluster, strategy):
    run = cluster.run(env={'ANSIBLE_STRATEGY': strategy})
    assert run.rc == 0, run.output
    assert cluster.files() == sorted(file for name in NODES for file in cluster.complete(name))
    no_folder(cluster, cluster.hosts['bad'])
    assert_stopped(cluster.run(env={'ANSIBLE_STRATEGY': strategy}), REASONS[no_folder])


def test_a_limit_leaves_the_other_hosts_alone(cluster):
    no_folder(cluster, cluster.hosts['bad'])
    run = cluster.run('airgap.k3s.stage', '--limit', 'good')
    assert run.rc == 0, run.output
    assert cluster.files() == cluster.complete('good')


def test_batches_of_a_play_of_ones_own_are_staged_one_after_the_other(cluster):
    steps = [('look', None), ('check', 'look'), ('send', 'look'), ('check', 'send'),
             ('place', 'send'), ('check', 'place')]
    tasks = [{'name': f'{step} {of}', 'airgap.k3s.stage': {'step': step, **({'of': of} if of else {})},
              **({} if step == 'check' else {'register': step})} for step, of in steps]
    no_folder(cluster, cluster.hosts['other'])
    run = cluster.run([{'hosts': 'all', 'gather_facts': False, 'serial': 1, 'any_errors_fatal': True,
                        'order': 'sorted', 'tasks': tasks}])
    assert run.rc != 0
    assert cluster.files() == sorted(cluster.complete('bad') + cluster.complete('good'))


@pytest.mark.parametrize('playbook', ['airgap.k3s.preflight', 'airgap.k3s.stage'])
def test_check_mode_and_preflight_change_nothing_and_say_what_would_be(cluster, playbook):
    run = cluster.run(playbook, '--check')
    assert run.rc == 0, run.output
    assert cluster.files() == []
    assert {counts['changed'] for counts in recap(run).values()} == {0 if playbook == 'airgap.k3s.preflight' else 1}


def test_a_node_is_asked_for_its_machine_where_nothing_says_it(cluster):
    for variables in cluster.hosts.values():
        del variables['k3s_artifact_machine']
    run = cluster.run()
    assert run.rc == 0, run.output
    assert looked(run, 'good')['machine'] == support.MACHINES[support.NATIVE]
    assert {counts['changed'] for counts in recap(cluster.run()).values()} == {0}


@pytest.mark.parametrize('variables, folder', [
    ({'k3s_server_location': '{node}/data'}, 'data/agent/images'),
    ({'k3s_server_location': '{node}/data', 'k3s_artifact_data_dir': '{node}/k3s'}, 'k3s/agent/images'),
    ({'k3s_server_location': '{node}/data', 'k3s_artifact_data_dir': '{node}/k3s',
      'k3s_artifact_images_dest': '{node}/images'}, 'images')],
    ids=['server_location', 'data_dir', 'images_dest'])
def test_the_archives_go_where_the_data_directory_is(cluster, variables, folder):
    node = cluster.node('good')
    del cluster.hosts['good']['k3s_artifact_data_dir']
    cluster.hosts['good'].update({name: value.format(node=node) for name, value in variables.items()})
    assert cluster.run('airgap.k3s.stage', '--limit', 'good').rc == 0
    assert (node / folder / f'k3s-airgap-images-{support.NATIVE}.tar').is_file()


# --- over ssh --------------------------------------------------------------------------------------------------------


@pytest.fixture(name='standin')
def fixture_standin(tmp_path, cluster):
    """Return the stand-in for ssh in front of nodes of the cluster's folder; the cluster's hosts are reached through
    it."""
    shutil.rmtree(tmp_path / 'nodes')
    standin = Standin(tmp_path)
    for name in NODES:
        variables = {**cluster.hosts[name], **standin.host(name)}
        del variables['k3s_artifact_machine']
        cluster.hosts[name] = variables
    return standin


def over_ssh(cluster, standin, *arguments):
    return cluster.run('airgap.k3s.stage', *arguments, env=standin.environment)


def partials(cluster, name):
    return [path for path in cluster.node(name).rglob('.k3s-artifact.*') if path.is_file()]


def test_over_ssh_each_file_is_streamed_once_and_put_in_place_by_one_command(cluster, standin):
    run = over_ssh(cluster, standin)
    assert run.rc == 0, run.output
    for name in NODES:
        calls = [call['bytes'] for call in standin.calls() if call['reached'] == name]
        assert len(calls) == 7, calls  # the machine, look; look again, three files; put in place
        assert sorted(size > 100000 for size in calls) == [False] * 5 + [True] * 2
        assert cluster.complete(name) == [file for file in cluster.files(name) if '/programs/' not in file]
    standin.forget()
    again = over_ssh(cluster, standin)
    assert again.rc == 0 and {counts['changed'] for counts in recap(again).values()} == {0}
    assert len(standin.calls()) == 2 * len(NODES)


def test_a_sudo_that_requires_a_terminal_gets_one_in_every_step(cluster, standin):
    cluster.hosts['bad'].update(ansible_become=True, ansible_become_exe=str(HERE / 'sudo'))
    run = over_ssh(cluster, standin)
    assert run.rc == 0, run.output
    assert all(cluster.complete(name) == [file for file in cluster.files(name) if '/programs/' not in file]
               for name in NODES)


def test_a_banner_with_the_answers_of_earlier_calls_changes_nothing(cluster, standin):
    standin.behave(banner='k3s_artifact=1\nmachine=s390x\nend=yes\n')
    run = over_ssh(cluster, standin)
    assert run.rc == 0, run.output
    assert all(cluster.complete(name) == [file for file in cluster.files(name) if '/programs/' not in file]
               for name in NODES)


def test_a_node_that_is_lost_at_half_leaves_every_node_as_it_was_and_the_next_run_continues(cluster, standin):
    standin.program('bad', 'dd', 'case "$*" in *of=*airgap-images*) $real of=/dev/null bs=65536 count=1; kill -9 $PPID '
                    ';; *) exec $real "$@" ;; esac')
    run = over_ssh(cluster, standin)
    assert run.rc != 0
    assert not any((cluster.node(name) / 'bin' / 'k3s').exists() for name in NODES)
    assert all(len(partials(cluster, name)) >= 2 for name in NODES)
    (cluster.node('bad') / 'programs' / 'dd').unlink()
    again = over_ssh(cluster, standin)
    assert again.rc == 0, again.output
    assert {row['bytes_to_send'] for name in ('good', 'other') for row in looked(again, name)['files']} == {0}
    assert all((cluster.node(name) / 'bin' / 'k3s').read_bytes() == cluster.binary.read_bytes() for name in NODES)
    assert not any(partials(cluster, name) for name in NODES)
