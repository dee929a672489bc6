# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the node is the connection plugin's, here ansible-core's ssh with a stand-in for the program it starts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import support
from standin import HERE

NATIVE = support.NATIVE
FOREIGN = 'arm64' if NATIVE == 'amd64' else 'amd64'
MACHINE, FOREIGN_MACHINE = support.MACHINES[NATIVE], support.MACHINES[FOREIGN]
MEGABYTE = 1 << 20
SIZE = 5 * MEGABYTE
OLD = support.program('k3s version v1.30.0+k3s1 (old)')
HOME = '/proc/self/cwd/bin/k3s'  # on every node, and another file on each: a command starts in its node's folder


def streamed(standin, size=SIZE):
    """Return the calls of the stand-in that were sent a file."""
    return [call for call in standin.calls() if call['bytes'] >= size]


def logins(standin):
    """Return the calls that open a connection of their own, or a shared one."""
    return [call for call in standin.calls() if 'ControlPersist' not in str(call['argv'][-1])]


def failed(run, host='node', task='stage'):
    return [entry['status'] for entry in run.results if (entry['host'], entry['task']) == (host, task)] == ['failed']


# --- the stream, and who it leads to


def test_a_binary_goes_over_ssh_in_one_stream_and_a_second_run_sends_nothing(standin, release):
    hosts = {'node': standin.host('node', MACHINE, OLD)}
    run = standin.stage(hosts)
    assert run.rc == 0, run.output
    result = run.result('node', 'stage')
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes() and standin.beside('node') == []
    assert (result['changed'], result['mode'],
            result['k3s_artifact']['bytes_to_send']) == (True, '0755', release[NATIVE].stat().st_size)
    assert len(streamed(standin)) == len(logins(standin)) == 1, 'look, send and install are one session'
    standin.forget()
    again = standin.stage(hosts)
    assert (again.rc, again.changed()) == (0, 0), again.output
    assert len(standin.calls()) <= 2 and not streamed(standin)


@pytest.mark.parametrize('dest', [None, HOME],
                         ids=['each node has a folder of its own', 'the path is the same on every node'])
def test_each_item_of_a_loop_over_delegate_to_lands_on_its_own_node(standin, release, dest):
    """One worker serves all items: what leads to the node of one item must not serve the next."""
    machines = {'n1': MACHINE, 'n2': FOREIGN_MACHINE, 'n3': 'armv7l', 'n4': MACHINE}
    archs = {'n1': NATIVE, 'n2': FOREIGN, 'n3': 'arm', 'n4': NATIVE}
    hosts = {name: standin.host(name, machine, dest=dest, k3s_artifact_probe=False) for name,
             machine in machines.items()}
    hosts['controller'] = {'k3s_artifact_dir': str(standin.folder / 'airgap')}
    place = {} if dest else {'k3s_artifact_dest': f'{standin.nodes}/{{{{ item }}}}/bin/k3s'}
    task = {'name': 'stage', 'copy': {'src': str(release[NATIVE])}, 'delegate_to': '{{ item }}', 'loop': list(machines)}
    run = standin.stage(hosts, {**task, 'vars': place}, hosts='controller')
    assert run.rc == 0, run.output
    for name, arch in archs.items():
        assert standin.installed(name).read_bytes() == release[arch].read_bytes(), name
        assert standin.beside(name) == []
    assert [item['k3s_artifact']['arch'] for item in run.items('controller', 'stage')] == list(archs.values())


@pytest.mark.parametrize(('keyword', 'values', 'logins'), [
    ('ansible_port', [2201, 2202], ['@n1:2201', '@n1:2202']),
    ('ansible_user', ['one', 'two'], ['one@n1:22', 'two@n1:22']),
    ('ansible_host', ['n1', 'n2'], ['@n1:22', '@n2:22']),
    ('ansible_ssh_extra_args', ['-o Port=2201', '-o Port=2202'], ['@n1:2201', '@n1:2202'])])
def test_each_item_of_a_loop_with_a_connection_variable_of_its_own_goes_through_its_own_login(standin, release, keyword,
                                                                                              values, logins):
    hosts = {'n1': standin.host('n1', MACHINE)}
    standin.host('n2', MACHINE)
    run = standin.stage(hosts, {'name': 'stage', 'copy': {'src': str(release[NATIVE])}, 'loop': values,
                                'vars': {keyword: '{{ item }}',
                                         'k3s_artifact_dest': '/proc/self/cwd/bin/k3s-{{ ansible_loop.index }}'},
                                'loop_control': {'extended': True}})
    assert run.rc == 0, run.output
    assert [call['login'] for call in streamed(standin)] == logins
    for index, login in enumerate(logins, 1):
        target = standin.installed(login[1:3] if login.startswith('@') else 'n1').with_name(f'k3s-{index}')
        assert target.read_bytes() == release[NATIVE].read_bytes()


def test_a_control_socket_that_is_there_already_does_not_lead_a_binary_astray(standin, release):
    """As in two containers that share a control directory and count processes from one: one's sockets lead astray."""
    hosts = {name: standin.host(name, MACHINE, dest=HOME) for name in ('n1', 'n2')}
    controls = standin.folder / 'controls'
    controls.mkdir()
    latest = int(Path('/proc/loadavg').read_text().split()[-1])
    for number in range(latest, latest + 5000):
        (controls / f'k3s-{number}').write_text('@n1:22')
    run = standin.stage({'n2': hosts['n2']})
    assert run.rc == 0, run.output
    assert standin.installed('n2').read_bytes() == release[NATIVE].read_bytes()
    assert not standin.installed('n1').exists()


INSIDE = """
from ansible.plugins.connection.ssh import Connection as Ssh, DOCUMENTATION as SSH_DOCUMENTATION
import shlex
DOCUMENTATION = SSH_DOCUMENTATION.replace('name: ssh', 'name: inside')
class Connection(Ssh):
    transport = 'ssh'
    def exec_command(self, cmd, in_data=None, sudoable=True):
        return super().exec_command('cd container && /bin/sh -c ' + shlex.quote(cmd), in_data, sudoable)
"""


@pytest.mark.parametrize('transport', ['ssh', 'inside'])
def test_a_connection_plugin_derived_from_ssh_leads_where_it_leads(standin, release, transport):
    hosts = {'node': standin.host('node', MACHINE, OLD, dest=HOME, ansible_connection='inside')}
    inner = standin.nodes / 'node' / 'container' / 'bin'
    inner.mkdir(parents=True)
    (standin.folder / 'connection_plugins').mkdir()
    (standin.folder / 'connection_plugins' / 'inside.py').write_text(INSIDE.replace("transport = 'ssh'",
                                                                                    f"transport = '{transport}'"))
    run = standin.stage(hosts)
    assert run.rc == 0, run.output
    assert (inner / 'k3s').read_bytes() == release[NATIVE].read_bytes() and os.listdir(inner) == ['k3s']
    assert standin.installed('node').read_bytes() == OLD and standin.beside('node') == []


def test_the_program_that_the_user_names_as_ssh_is_the_only_one_that_runs(standin, release):
    programs, mark = standin.folder / 'programs', standin.folder / 'mark'
    programs.mkdir()
    for name in ('ssh', 'scp', 'sftp'):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{mark}\nexit 255\n')
        (programs / name).chmod(0o755)
    run = standin.stage({'node': standin.host('node', MACHINE)}, env={'PATH': f'{programs}:{os.environ["PATH"]}'})
    assert run.rc == 0, run.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes()
    ran = mark.read_text().splitlines() if mark.exists() else []
    assert set(ran) <= {'ssh -o ControlPersist'}, 'which is how some releases of ansible-core ask what ssh can do'


# --- the user's ssh options, and no others


def test_the_stream_has_a_connection_of_its_own_without_compression_and_no_other_call_has(standin, release):
    run = standin.stage({'node': standin.host('node', MACHINE)}, {'name': 'before', 'ansible.builtin.raw': 'true'},
                        {'name': 'stage', 'copy': {'src': str(release[NATIVE])}},
                        {'name': 'after', 'ansible.builtin.raw': 'true'})
    assert run.rc == 0, run.output
    stream, = streamed(standin)
    assert 'C' not in stream['flags'] and stream['options'].get('compression', 'no') == 'no', stream['argv']
    assert (stream['options']['controlmaster'], stream['options']['controlpath']) == ('no', 'none'), stream['argv']
    others = [call for call in standin.calls() if call['bytes'] < SIZE]
    assert len({(call['flags'].replace('t', ''), call['options']['controlmaster'],
                 call['options']['controlpath']) for call in others}) == 1
    assert 'C' in others[0]['flags'] and others[0]['options']['controlmaster'] == 'auto', 'Ansible\'s own'


@pytest.mark.parametrize(('variable', 'value', 'name', 'wanted'), [
    ('ansible_ssh_common_args', '-o ControlMaster=auto -o ControlPath={folder}/own', 'controlpath', '{folder}/own'),
    ('ansible_ssh_common_args', '-S {folder}/own -o ControlMaster=auto', 'controlpath', '{folder}/own'),
    ('ansible_ssh_extra_args', '-oControlPath=none', 'controlpath', 'none'),
    ('ansible_control_path', '{folder}/own', 'controlpath', '{folder}/own'),
    ('ansible_ssh_common_args', '-F {folder}/config', '-F', '{folder}/config'),
    ('ansible_ssh_args', '-o ProxyJump=jump -o ServerAliveInterval=7', 'proxyjump', 'jump'),
    ('ansible_ssh_args', '-J jump -6', '-J', 'jump'),
    ('ansible_ssh_extra_args', '-o ProxyCommand="nc -x proxy %h %p"', 'proxycommand', 'nc -x proxy %h %p'),
    ('ansible_ssh_common_args', '-R 8080:localhost:80 -o ExitOnForwardFailure=yes', '-R', '8080:localhost:80'),
])
def test_what_the_user_says_to_ssh_holds_for_every_call(standin, release, variable, value, name, wanted):
    folder = str(standin.folder)
    hosts = {'node': standin.host('node', MACHINE, **{variable: value.format(folder=folder)})}
    run = standin.stage(hosts)
    assert run.rc == 0, run.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes()
    said = {call['options'].get(name) for call in standin.calls()}
    assert said == {wanted.format(folder=folder)}, [call['argv'][:-1] for call in standin.calls()]
    if name in ('controlpath', '-R'):
        assert len({(call['options'].get('controlmaster'),
                     call['options'].get('controlpath')) for call in standin.calls()}) == 1


@pytest.mark.parametrize('controls', ['{{ playbook_dir }}/sockets', '/proc/nowhere', '{{ playbook_dir }}/with a space',
                                      '{{ playbook_dir }}/' + 'long' * 40])
def test_the_control_directory_does_not_matter(standin, release, controls):
    """Where core itself cannot do with it, as with one that cannot be made, the user has turned multiplexing off."""
    off = {'ansible_ssh_args': '-o ControlMaster=no -o ControlPath=none'} if controls.startswith('/proc') else {}
    hosts = {'node': standin.host('node', MACHINE, ansible_control_path_dir=controls, **off)}
    run = standin.stage(hosts, env={'ANSIBLE_SSH_CONTROL_PATH_DIR': str(standin.folder / 'unused')})
    assert run.rc == 0, run.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes()


def test_a_master_that_is_open_carries_the_binary_where_no_other_login_is_possible(standin, release):
    """As with a second factor: the shared connection is open, and whoever logs in again is refused."""
    standin.behave(logins=1)
    run = standin.stage({'node': standin.host('node', MACHINE, OLD)})
    assert run.rc == 0, run.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes() and standin.beside('node') == []


# --- breaks


def test_a_connection_that_is_cut_at_3_megabytes_is_made_again_and_only_what_was_missing_is_sent(standin, release):
    standin.behave(cuts=[3 * MEGABYTE])
    run = standin.stage({'node': standin.host('node', MACHINE, OLD)}, env={'ANSIBLE_SSH_RETRIES': '3'})
    assert run.rc == 0, run.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes() and standin.beside('node') == []
    assert [path.name for path in standin.state.glob('cut-*')] != []
    assert sum(call['bytes'] for call in standin.calls()) < release[NATIVE].stat().st_size + MEGABYTE


def test_a_connection_that_is_cut_more_often_than_the_retries_allow_fails_and_the_next_run_continues(standin, release):
    standin.behave(cuts=[MEGABYTE * 2, MEGABYTE, MEGABYTE // 2])
    hosts = {'node': standin.host('node', MACHINE, OLD)}
    run = standin.stage(hosts, env={'ANSIBLE_SSH_RETRIES': '1'})
    assert run.rc != 0 and 'Traceback' not in run.output and 'Unexpected' not in run.output, run.output
    assert standin.installed('node').read_bytes() == OLD
    sent = sum(call['bytes'] for call in standin.calls())
    standin.behave(cuts=[])
    standin.forget()
    again = standin.stage(hosts)
    assert again.rc == 0, again.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes() and standin.beside('node') == []
    kept = min(sent, 2 * MEGABYTE)
    assert sum(call['bytes'] for call in standin.calls()) < release[NATIVE].stat().st_size - kept + MEGABYTE


def test_a_first_transfer_that_breaks_does_not_say_that_something_was_there_before(standin, release):
    standin.behave(cuts=[MEGABYTE] * 20)
    run = standin.stage({'node': standin.host('node', MACHINE)})
    assert run.rc != 0 and not standin.installed('node').exists()
    said = run.results[-1]['result']['msg']
    assert 'is complete' not in said and 'before is still there' not in said, said
    assert 'Unexpected' not in run.output, run.output


def end_worker(standin):
    """Kill the process that runs the task, as the kernel does when memory is short; no other process whatever."""
    for call in alive(standin):
        worker = int(Path(f'/proc/{call["pid"]}/stat').read_text().rpartition(')')[2].split()[1])
        if str(standin.folder / 'inventory.json') in Path(f'/proc/{worker}/cmdline').read_text().split('\0'):
            os.kill(worker, signal.SIGKILL)
            return
    raise AssertionError('no process runs the task')


def alive(standin):
    """Return the calls of the stand-in whose process still runs."""
    return [call for call in standin.calls() if call['rc'] is None and Path(f'/proc/{call["pid"]}').exists()
            and 'Z' not in Path(f'/proc/{call["pid"]}/stat').read_text().rpartition(')')[2].split()[0]]


@pytest.mark.parametrize('end', ['the worker is killed', 'the time of the task is up'])
def test_what_ends_the_run_ends_the_transfer_and_nothing_is_installed_afterwards(standin, release, end):
    standin.behave(rate=MEGABYTE)  # five seconds
    hosts = {'node': standin.host('node', MACHINE, OLD)}
    killed = end == 'the worker is killed'
    with ThreadPoolExecutor() as pool:
        # A worker that is killed keeps some releases of ansible-core waiting for ever: that is ended, too.
        run = pool.submit(standin.stage, hosts, timeout=12, **({} if killed else {'timeout_of_task': 2}))
        if killed:
            until(lambda: alive(standin) and any(standin.installed('node').parent.glob('.*')), 30)
            time.sleep(1)
            end_worker(standin)
        else:
            assert run.result().rc != 0
        until(lambda: not alive(standin), 3)
        time.sleep(6)
        assert standin.installed('node').read_bytes() == OLD
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert run.result().rc != 0
    standin.behave(rate=None)
    again = standin.stage(hosts)
    assert again.rc == 0, again.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes() and standin.beside('node') == []


def until(condition, seconds):
    """Wait until *condition* holds, *seconds* at most."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'what was waited for did not come'
        time.sleep(0.05)


# --- what a login says besides


FORGED = '\n'.join(['@end=yes', '@machine=s390x', '@kind=absent', '@sha256={sha256}', '@failed=digest',
                    '@reason=forged', '@version=v9.9.9', '@part=65536 {sha256}', ''])


@pytest.mark.parametrize('before', [None, OLD], ids=['first staging', 'upgrade'])
def test_answers_that_a_banner_forges_or_repeats_are_ignored(standin, release, before):
    hosts = {'node': standin.host('node', MACHINE, before)}
    standin.behave(banner=FORGED.format(sha256=support.sha256(release[NATIVE])))
    run = standin.stage(hosts)
    assert run.rc == 0, run.output
    known = run.result('node', 'stage')['k3s_artifact']
    assert (known['machine'], known['version'] and 'v9.9.9' in known['version']) == (MACHINE, False)
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes() and standin.beside('node') == []
    again = standin.stage(hosts)
    assert (again.rc, again.changed()) == (0, 0), again.output


def test_a_run_with_more_than_a_thousand_open_files_streams_as_well(standin, release):
    """As one with some hundred forks has: each of them is four open files of Ansible's own process."""
    callbacks = standin.folder / 'callback_plugins'
    callbacks.mkdir()
    (callbacks / 'opens.py').write_text(
        'import os, resource\nfrom ansible.plugins.callback import CallbackBase\n'
        'resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n'
        'opened = [os.open("/dev/null", os.O_RDONLY) for _number in range(1100)]\n'
        'class CallbackModule(CallbackBase):\n'
        '    CALLBACK_VERSION = 2.0\n    CALLBACK_TYPE = "aggregate"\n    CALLBACK_NAME = "opens"\n')
    run = standin.stage({'node': standin.host('node', MACHINE, OLD)})
    assert run.rc == 0 and run.result('node', 'stage')['k3s_artifact']['way'] == 'stream', run.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes()


@pytest.mark.parametrize('pipelining', ['true', 'false'])
@pytest.mark.parametrize('password', [False, True])
def test_a_sudo_that_requires_a_terminal_gets_one(standin, release, pipelining, password):
    """With pipelining, core itself gives none; what the user sets is what the probe finds, and says."""
    hosts = {'node': standin.host('node', MACHINE, OLD, ansible_become_exe=str(HERE / 'sudo'),
                                  **({'ansible_become_password': 'asked for by none'} if password else {}))}
    run = standin.stage(hosts, become=True, env={'ANSIBLE_PIPELINING': pipelining})
    if pipelining == 'true':
        assert run.rc == 0 or 'tty' in run.output and standin.installed('node').read_bytes() == OLD
        return
    assert run.rc == 0, run.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes() and standin.beside('node') == []


# --- what is printed


def test_progress_goes_to_standard_error_and_no_program_that_reads_the_output_stumbles_over_it(standin, release):
    standin.behave(rate=700_000)  # eight seconds; the first word comes after five
    hosts = support.write_inventory(standin.folder / 'inventory.json', {'node': standin.host('node', MACHINE)})
    support.install_drop_in(standin.folder)
    (standin.folder / 'site.yml').write_text(json.dumps([{'hosts': 'all', 'gather_facts': False,
                                                          'tasks': [{'copy': {'src': str(release[NATIVE])}}]}]))
    done = subprocess.run([str(support.PROGRAMS / 'ansible-playbook'), '-i', str(hosts), 'site.yml'],
                          cwd=standin.folder, text=True, timeout=100,
                          env=support.environment(standin.folder, **standin.environment), stdin=subprocess.DEVNULL,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ' MB/s' not in done.stdout
    assert 'node: k3s ' in done.stderr and ' MB/s' in done.stderr


def test_one_line_of_output_is_one_line(standin, release):
    """ansible -o, as programs read it: a result is a line, and every line is a result."""
    standin.behave(rate=700_000)
    hosts = support.write_inventory(standin.folder / 'inventory.json', {'node': standin.host('node', MACHINE)})
    support.install_drop_in(standin.folder)
    env = {**standin.environment, 'ANSIBLE_ACTION_PLUGINS': str(standin.folder / 'action_plugins'),
           'ANSIBLE_LOOKUP_PLUGINS': str(standin.folder / 'lookup_plugins')}
    done = subprocess.run([str(support.PROGRAMS / 'ansible'), '-i', str(hosts), 'node', '-o', '-m', 'copy', '-a',
                           f'src={release[NATIVE]}'], cwd=standin.folder,
                          text=True, timeout=100, env=support.environment(standin.folder, **env),
                          stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    line, = done.stdout.splitlines()
    assert json.loads(line.partition('=> ')[2])['changed'] is True


def test_all_that_runs_on_a_node_is_in_the_log_of_vvv(standin, release):
    run = standin.stage({'node': standin.host('node', MACHINE)}, arguments=['-vvv'])
    assert run.rc == 0, run.output
    assert len(re.findall(r'SSH: EXEC', run.output)) == len(standin.calls())


@pytest.mark.parametrize('text', ['perhaps', '5', '[]', '{{ nothing }}'])
def test_a_switch_for_the_trial_run_that_is_neither_true_nor_false_is_refused_before_anything_is_sent(standin, release,
                                                                                                      text):
    run = standin.stage({'node': standin.host('node', MACHINE, OLD, k3s_artifact_probe=text)})
    assert run.rc == 2 and re.search('k3s_artifact_probe|nothing', run.results[-1]['result']['msg']), run.output
    assert not streamed(standin) and standin.installed('node').read_bytes() == OLD


# --- the plugin under other names


def renamed(standin):
    """Make the two files loose plugins, the action under the name k3s_copy; return the keyword of the task."""
    support.install_drop_in(standin.folder)
    os.rename(standin.folder / 'action_plugins' / 'copy.py', standin.folder / 'action_plugins' / 'k3s_copy.py')
    return 'k3s_copy', {}


def redirected(standin):
    """Make a collection that redirects an action of its own to ours."""
    place = Path(support.collection_path(standin.folder)) / 'ansible_collections' / 'my' / 'cluster'
    (place / 'meta').mkdir(parents=True)
    (place / 'galaxy.yml').write_text('namespace: my\nname: cluster\nversion: 1.0.0\nreadme: README\nauthors: [me]\n')
    routing = {'redirect': 'airgap.k3s.copy'}
    (place / 'meta' / 'runtime.yml').write_text(json.dumps({'plugin_routing': {'action': {'push': routing},
                                                                               'modules': {'push': routing}}}))
    return 'my.cluster.push', {}


def with_collections_keyword(standin):
    support.collection_path(standin.folder)
    return 'copy', {'collections': ['airgap.k3s']}


def both(standin):
    support.install_drop_in(standin.folder)
    support.collection_path(standin.folder)
    return 'airgap.k3s.copy', {}


@pytest.mark.parametrize('way', [renamed, redirected, with_collections_keyword, both])
def test_a_task_that_reaches_the_plugin_by_another_name_stages(standin, release, way):
    keyword, play = way(standin)
    hosts = {'own': standin.host('own', MACHINE),
             'other': standin.host('other', FOREIGN_MACHINE, k3s_artifact_probe=False)}
    env = {'ANSIBLE_COLLECTIONS_PATH': str(standin.folder / 'collections')}
    run = standin.stage(hosts,
                        {'name': 'stage', keyword: {'src': str(release['riscv64']), 'dest': '{{ k3s_artifact_dest }}'}},
                        home='none', env=env, **play)
    assert run.rc == 0, run.output
    for host, arch in (('own', NATIVE), ('other', FOREIGN)):
        assert standin.installed(host).read_bytes() == release[arch].read_bytes(), host
        assert run.result(host, 'stage')['k3s_artifact']['arch'] == arch


# --- what a result says


def test_a_result_says_how_the_file_came_and_which_way(standin, release):
    hosts = {'streamed': standin.host('streamed', MACHINE),
             'put': standin.host('put', MACHINE, ansible_connection='local'),
             'core': standin.host('core', MACHINE)}
    tasks = [{'name': 'stage', 'copy': {'src': str(release[NATIVE]),
                                        'mode': '{{ "u=rwx,go=rx" if inventory_hostname == "core" else "0755" }}'}}]
    runs = [standin.stage(hosts, *tasks) for _run in range(2)]
    for run, came in zip(runs, ('pushed', 'there')):
        assert run.rc == 0, run.output
        for host, way in (('streamed', 'stream'), ('put', 'put_file'), ('core', 'copy')):
            known = run.result(host, 'stage')['k3s_artifact']
            assert known['came'] == came and (came == 'there' or known['way'] == way), (host, known)
            assert {'machine', 'arch', 'source', 'size', 'sha256', 'verified', 'installed', 'bytes_to_send', 'free',
                    'version'} <= set(known)


# --- a node that lies at random


EXAMPLES = int(os.environ.get('K3S_ARTIFACT_FUZZ_EXAMPLES', '30'))
NODES = 10  # that are asked in one run


@pytest.mark.parametrize('seed', range(-(-EXAMPLES // NODES)))
def test_a_node_that_says_anything_whatever_gets_the_right_file_or_none_and_a_sentence(standin, release, seed):
    """What the node really does is right; what it says of it is spoilt. A later task uses the result, as plays do."""
    standin.behave(seed=seed)
    release[NATIVE].write_bytes(support.program(body=os.urandom(200_000)))
    hosts = {f'n{number}': standin.host(f'n{number}', MACHINE, [None, OLD][number % 2]) for number in range(NODES)}
    run = standin.stage(hosts, {'name': 'stage', 'copy': {'src': str(release[NATIVE])}, 'register': 'staged',
                                'ignore_errors': True, 'ignore_unreachable': True},
                        {'name': 'use',
                         'ansible.builtin.debug': {'msg': '{{ staged.msg | default("") }} {{ staged.k3s_artifact }}'},
                         'ignore_errors': True},
                        arguments=['--forks', '5'])
    for trace in ('Traceback', 'Unexpected', 'unexpected exception', 'KeyError', 'ValueError',
                  'object has no attribute'):
        assert trace not in run.output, (seed, run.output)
    assert not Path(standin.config['mark']).exists(), run.output
    assert not re.search(r'[\x00-\x08\x0b-\x1f\x7f]', run.output), repr(run.output)
    for number, host in enumerate(hosts):
        found = standin.installed(host).read_bytes() if standin.installed(host).exists() else None
        assert found in ([None, OLD][number % 2], release[NATIVE].read_bytes()), (seed, host)
        names = {path.name for path in standin.installed(host).parent.iterdir()}
        assert all(name == 'k3s' or re.fullmatch(r'\.k3s-artifact\.k3s\.[0-9a-f]{64}(\.\d+)?\.part',
                                                 name) for name in names), (seed, host, names)
        assert {path.name for path in (standin.nodes / host).iterdir()} == {'bin', 'programs'}
        status = [entry['status'] for entry in run.results if (entry['host'], entry['task']) == (host, 'stage')]
        assert status and (status != ['ok'] or found == release[NATIVE].read_bytes()), (seed, host, status)
