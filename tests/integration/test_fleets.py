# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes leave the controller once: nodes that fetch from a mirror, and from a neighbour at their site.

The nodes are folders of this machine behind the stand-in for ssh, or reached by the connection plugin local.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import support
from standin.mirror import MirrorServer, write_certificates

NATIVE = support.NATIVE
MACHINE = support.MACHINES[NATIVE]
MEGABYTE = 1 << 20
SIZE = 5 * MEGABYTE
OLD = support.program('k3s version v1.30.0+k3s1 (old)')
CONNECTIONS = ('ssh', 'local')
CLIENTS = ('curl', 'wget', 'busybox')


@pytest.fixture(name='mirror')
def fixture_mirror(tmp_path, release):
    mirror = MirrorServer(tmp_path / 'airgap')
    yield mirror
    mirror.close()


def only_client(standin, host, client):
    """Leave a node *client* of curl, wget and wget of BusyBox, or none of them; what it is called with is noted."""
    programs = standin.nodes / host / 'programs'
    hidden = programs / 'hidden'
    hidden.mkdir()
    for folder in os.environ['PATH'].split(':'):
        for path in Path(folder).glob('*') if Path(folder).is_dir() else ():
            if path.name not in ('curl', 'wget') and not (hidden / path.name).exists():
                (hidden / path.name).symlink_to(path)
    if client:
        name = 'curl' if client == 'curl' else 'wget'
        real = f'{shutil.which("busybox")} wget' if client == 'busybox' else shutil.which(name)
        (hidden / name).write_text(f'#!/bin/sh\necho "$@" >>{programs}/called\nexec {real} "$@"\n')
        (hidden / name).chmod(0o755)
    return str(hidden)


def node_of(standin, mirror, client='curl', connection='ssh', before=None, **variables):
    """Return the variables of a host "node" with one *client* that has a mirror."""
    host = standin.host('node', MACHINE, before, ansible_connection=connection,
                        **{'k3s_artifact_url': mirror.url, **variables})
    path = only_client(standin, 'node', client)
    return {**host, 'ansible_shell_executable': str(wrapped_shell(standin, path))}


def wrapped_shell(standin, path, host='node'):
    """Return a /bin/sh that finds programs in *path* only, and in the node's own folder before."""
    shell = standin.nodes / host / 'shell'
    shell.write_text(f'#!/bin/sh\nPATH={standin.nodes}/{host}/programs:{path}\nexport PATH\nexec /bin/sh "$@"\n')
    shell.chmod(0o755)
    return shell


def known_of(run, task='stage', host='node'):
    return run.result(host, task)['k3s_artifact']


def stage_all(standin, hosts, *arguments, playbook='airgap.k3s.stage', env=None, timeout=300):
    return support.play(standin.folder, playbook, '-e', 'k3s_artifact_hosts=all', *arguments, home='collection',
                        hosts=support.write_inventory(standin.folder / 'inventory.json', hosts), timeout=timeout,
                        env={**standin.environment, **(env or {})})


def assert_whole(standin, release, run):
    assert run.rc == 0, run.output
    assert standin.installed('node').read_bytes() == release[NATIVE].read_bytes() and standin.beside('node') == []


def pushed(standin):
    return sum(call['bytes'] for call in standin.calls())


# --- a mirror


@pytest.mark.parametrize('connection', CONNECTIONS)
@pytest.mark.parametrize('client', CLIENTS)
def test_a_node_with_any_client_fetches_its_binary_and_the_controller_sends_none_of_it(
        standin, release, mirror, client, connection):
    hosts = {'node': node_of(standin, mirror, client, connection)}
    run = standin.stage(hosts)
    assert_whole(standin, release, run)
    assert (known_of(run)['came'], known_of(run)['way']) == ('fetched', 'fetch'), run.output
    assert [path for path, _headers in mirror.asked] == [f'/{release[NATIVE].name}']
    assert pushed(standin) < MEGABYTE // 10
    again = standin.stage(hosts)
    assert (again.rc, again.changed(), len(mirror.asked), known_of(again)['came']) == (0, 0, 1, 'there'), again.output


FAULTS = {'404': '404', '500': '500', '302': '302|redirect', 'login page': '', 'another file': 'it is another file',
          'endless': 'it is another file', 'cut': ''}


@pytest.mark.parametrize('client', CLIENTS)
@pytest.mark.parametrize('fault', FAULTS)
def test_what_a_mirror_does_wrong_is_said_and_the_push_takes_over(standin, release, mirror, fault, client):
    mirror.fault = fault
    run = standin.stage({'node': node_of(standin, mirror, client, before=OLD)})
    assert_whole(standin, release, run)
    assert known_of(run)['came'] == 'pushed'
    assert re.search(rf'did not come from the mirror: .*({FAULTS[fault]})', ' '.join(run.output.split())), run.output
    kept = release[NATIVE].stat().st_size // 2 if fault == 'cut' else 0
    assert pushed(standin) < release[NATIVE].stat().st_size - kept + MEGABYTE // 4
    assert not any('elsewhere' in path for path, _headers in mirror.asked) or client == 'busybox'


@pytest.mark.parametrize('client', CLIENTS)
@pytest.mark.parametrize('fault', ['', 'no range'])
def test_a_transfer_that_broke_is_continued_by_a_mirror_that_can(standin, release, mirror, client, fault):
    hosts = {'node': node_of(standin, mirror, client)}
    standin.behave(cuts=[2 * MEGABYTE] * 2)
    broken = standin.stage({'node': {**hosts['node'], 'k3s_artifact_url': ''}}, env={'ANSIBLE_SSH_RETRIES': '0'})
    assert broken.rc != 0 and len(standin.beside('node')) == 1, broken.output
    standin.behave(cuts=[])
    standin.forget()
    mirror.fault = fault
    run = standin.stage(hosts)
    assert_whole(standin, release, run)
    start = int(re.fullmatch(r'bytes=(\d+)-', mirror.asked[0][1]['Range'])[1])
    assert start >= MEGABYTE
    if not fault:
        assert known_of(run)['came'] == 'fetched' and mirror.sent == release[NATIVE].stat().st_size - start


@pytest.mark.parametrize('client', CLIENTS)
def test_a_mirror_that_drips_is_given_up_in_half_a_minute(standin, release, mirror, client):
    mirror.fault = 'drip'
    began = time.monotonic()
    run = standin.stage({'node': node_of(standin, mirror, client)})
    assert_whole(standin, release, run)
    assert known_of(run)['came'] == 'pushed' and time.monotonic() - began < 60
    assert 'given up: fewer than 327680 bytes in 20 seconds' in ' '.join(run.output.split()), run.output


def test_a_node_without_curl_and_wget_is_pushed_to_and_told_of(standin, release, mirror):
    run = standin.stage({'node': node_of(standin, mirror, None)})
    assert_whole(standin, release, run)
    assert known_of(run)['came'] == 'pushed' and 'the node has neither curl nor wget' in ' '.join(run.output.split())


def test_a_mirror_that_refuses_connections_is_pushed_past(standin, release, mirror):
    mirror.close()
    run = standin.stage({'node': node_of(standin, mirror)})
    assert_whole(standin, release, run)
    assert known_of(run)['came'] == 'pushed'


def test_with_url_only_nothing_is_pushed(standin, release, mirror):
    mirror.fault = '404'
    hosts = {'node': node_of(standin, mirror, before=OLD, k3s_artifact_url_only=True)}
    run = standin.stage(hosts)
    assert run.rc != 0 and standin.installed('node').read_bytes() == OLD, run.output
    assert 'k3s_artifact_url_only forbids to send it. What was at' in ' '.join(run.output.split())
    for task in ({'src': str(release[NATIVE]), 'backup': True}, {'src': str(standin.folder / 'other' / 'k3s')}):
        (standin.folder / 'other').mkdir(exist_ok=True)
        shutil.copy(release[NATIVE], standin.folder / 'other' / 'k3s')
        for arguments in ([], ['--check']) if 'backup' not in task else ([],):
            run = standin.stage(hosts, {'name': 'stage', 'copy': task}, arguments=arguments)
            assert run.rc != 0 and 'k3s_artifact_url_only forbids' in ' '.join(run.output.split()), run.output
        assert standin.installed('node').read_bytes() == OLD
    assert pushed(standin) < MEGABYTE // 10


def test_check_mode_asks_nothing_of_the_mirror(standin, release, mirror):
    run = standin.stage({'node': node_of(standin, mirror)}, arguments=['--check'])
    assert run.rc == 0 and mirror.asked == [] and known_of(run)['came'] == '' and not standin.installed('node').exists()


def test_archives_and_the_install_script_are_fetched_by_their_path_below_the_artifact_directory(
        tmp_path, standin, mirror):
    shutil.rmtree(tmp_path / 'airgap')
    binary = support.release(tmp_path / 'airgap', NATIVE, layout='per-arch')[NATIVE]
    binary.write_bytes(support.program(body=b'+k3s1'))
    (binary.parent / f'sha256sum-{NATIVE}.txt').unlink()
    (tmp_path / 'airgap' / 'k3s-install.sh').write_text('#!/bin/sh\n')
    archive = f'k3s-airgap-images-{NATIVE}.tar.zst'
    (binary.parent / archive).rename(binary.parent / f'k3s-airgap-images-{NATIVE}-v1.31.4+k3s1.tar.zst')
    node = node_of(standin, mirror, k3s_artifact_data_dir=str(standin.nodes / 'node' / 'data'),
                   k3s_artifact_become=False)
    run = stage_all(standin, {'node': node})
    assert run.rc == 0, run.output
    assert sorted(path for path, _headers in mirror.asked) == [
        f'/{NATIVE}/{binary.name}', f'/{NATIVE}/k3s-airgap-images-{NATIVE}-v1.31.4%2Bk3s1.tar.zst', '/k3s-install.sh']
    known = run.result('node', 'Put everything in place')['k3s_artifact']
    assert {row['came'] for row in known['files']} == {'fetched'}
    assert 'fetched' in run.output


# --- secrets


SECRET, HEADER = 'pass"wo\\rd $x', "to'ken`$(touch /nowhere)"


@pytest.mark.parametrize('connection', CONNECTIONS)
@pytest.mark.parametrize('client', CLIENTS)
def test_a_password_and_a_header_reach_the_mirror_and_no_list_of_processes_and_no_log(standin, release, mirror, client,
                                                                                      connection):
    hosts = {'node': node_of(standin, mirror, client, connection, k3s_artifact_url_username='me',
                             k3s_artifact_url_password=SECRET, k3s_artifact_url_headers={'X-Token': HEADER})}
    run = standin.stage(hosts, arguments=['-vvvvv'], env={'ANSIBLE_KEEP_REMOTE_FILES': 'true'})
    assert_whole(standin, release, run)
    coded = base64.b64encode(f'me:{SECRET}'.encode()).decode()
    called = (standin.nodes / 'node' / 'programs' / 'called')
    said = run.output + json.dumps(run.results) + json.dumps(standin.calls())
    said += called.read_text() if called.exists() else ''
    for text in (SECRET, HEADER, coded, 'wo\\\\rd'):
        assert text not in said
    assert list((standin.folder / 'home' / 'remote').rglob('secrets*')) == []
    if client == 'busybox':
        assert mirror.asked == [] and known_of(run)['came'] == 'pushed'
        assert 'would show the header or password' in ' '.join(run.output.split())
    else:
        (_path, headers), = mirror.asked
        assert headers['Authorization'] == f'Basic {coded}' and headers['X-Token'] == HEADER
        assert known_of(run)['came'] == 'fetched'


@pytest.mark.parametrize('ca', ['ours', "somebody else's", None])
@pytest.mark.parametrize('client', ['curl', 'wget'])
def test_a_mirror_with_a_certificate_of_an_own_ca_is_believed_where_the_node_has_that_ca(standin, release, client, ca,
                                                                                         tmp_path):
    folders = {name: tmp_path / name for name in ('ours', "somebody else's")}
    for folder in folders.values():
        folder.mkdir()
    paths = {name: write_certificates(folder) for name, folder in folders.items()}
    mirror = MirrorServer(tmp_path / 'airgap', certificate=paths['ours'][1])
    own = {'k3s_artifact_url_ca_path': str(paths[ca][0])} if ca else {}
    run = standin.stage({'node': node_of(standin, mirror, client, **own)})
    mirror.close()
    assert_whole(standin, release, run)
    assert known_of(run)['came'] == ('fetched' if ca == 'ours' else 'pushed'), run.output
    assert (mirror.asked == []) == (ca != 'ours')
    assert ca == 'ours' or re.search('did not come from the mirror: .*certificate', ' '.join(run.output.split()))


@pytest.mark.parametrize('client', CLIENTS)
def test_a_proxy_is_used_and_false_means_none(standin, release, mirror, client):
    hosts = {'node': node_of(standin, mirror, client, k3s_artifact_url='http://mirror.invalid/k',
                             k3s_artifact_url_proxy=mirror.url)}
    (standin.folder / 'airgap' / 'k').mkdir()
    run = standin.stage(hosts)
    assert run.rc == 0 and mirror.asked[0][0] == f'http://mirror.invalid/k/{release[NATIVE].name}', run.output
    standin.installed('node').unlink()
    mirror.asked.clear()
    hosts['node'].update(k3s_artifact_url=mirror.url, k3s_artifact_url_proxy=False)
    run = standin.stage(hosts, env={'http_proxy': 'http://127.0.0.1:9'})
    assert_whole(standin, release, run)
    assert known_of(run)['came'] == 'fetched', run.output


WRONG = {
    'k3s_artifact_url': ['ftp://x/y', 'http://me:secret@x/y', 'http://x/y?token=secret', 'x', 5, 'http://x/"y'],
    'k3s_artifact_url_headers': ['secret', {'a b': 'secret'}, {'A': 'secret\nB: c'}, {'A\n': 'secret'}],
    'k3s_artifact_url_username': ['', 'a:secret', ['secret']],
    'k3s_artifact_url_proxy': ['proxy secret', 'ftp://secret', ['secret']],
    'k3s_artifact_url_ca_path': ['secret.pem'],
    'k3s_artifact_url_only': ['perhaps'],
    'k3s_artifact_rate': ['fast', '10', '-1M', [5]]}


@pytest.mark.parametrize(('name', 'value'), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_setting_that_is_none_is_an_error_that_names_it_and_repeats_no_secret(standin, release, name, value):
    hosts = {'node': standin.host('node', MACHINE, OLD, **{
        'k3s_artifact_url': 'http://127.0.0.1:9', 'k3s_artifact_url_password': 'secret word'
        if name == 'k3s_artifact_url_username' else '', name: value})}
    run = standin.stage(hosts)
    said = run.results[-1]['result']['msg']
    assert run.rc == 2 and said.startswith(f'{name} of node ') or name in said, run.output
    assert name == 'k3s_artifact_url_ca_path' or 'secret' not in said
    assert standin.installed('node').read_bytes() == OLD and 'Traceback' not in run.output


# --- how fast


@pytest.mark.parametrize('client', ['', 'curl', 'wget'])
def test_a_rate_slows_what_is_pushed_and_what_is_fetched(standin, release, mirror, client):
    hosts = {'node': node_of(standin, mirror, client, k3s_artifact_url=mirror.url if client else '',
                             k3s_artifact_rate='500k')}
    began = time.monotonic()
    run = standin.stage(hosts)
    assert_whole(standin, release, run)
    if client == 'curl':  # which looks at the time after some megabytes only, where they come fast
        assert '--limit-rate 500000 ' in (standin.nodes / 'node' / 'programs' / 'called').read_text()
    else:
        assert SIZE / 500_000 * 0.8 < time.monotonic() - began < 30
    assert known_of(run)['came'] == ('fetched' if client else 'pushed')


# --- a site


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Fleet:
    """Pretend nodes behind the stand-in, each with folders and a port of its own; *here* and *there* are sites."""

    def __init__(self, standin):
        self.standin, self.hosts, self.size = standin, {}, standin.folder / 'airgap'

    def add(self, name, site=None, machine=MACHINE, **variables):
        where = self.standin.nodes / name
        self.hosts[name] = self.standin.host(name, machine, **{
            'k3s_artifact_data_dir': str(where / 'data'), 'k3s_artifact_become': False, 'ansible_host': name,
            'k3s_artifact_relay_dir': str(where / 'relay'), 'k3s_artifact_relay_port': free_port(),
            'k3s_artifact_relay_address': '127.0.0.1', 'k3s_artifact_probe': machine == MACHINE,
            **({'k3s_artifact_site': site} if site else {}), **variables})
        return where

    def run(self, *arguments, **how):
        self.standin.forget()
        return stage_all(self.standin, self.hosts, *arguments, '--forks', '10', **how)

    def pushed(self):
        """Return the bytes that each host was sent."""
        found = dict.fromkeys(self.hosts, 0)
        for call in self.standin.calls():
            found[call['host']] += call['bytes']
        return found

    def came(self, run):
        return {name: [row['came'] for row in run.result(name, 'Put everything in place')['k3s_artifact']['files']]
                for name in self.hosts}

    def assert_whole(self, run, release, archs=None):
        assert run.rc == 0, run.output
        for name in self.hosts:
            arch = (archs or {}).get(name, NATIVE)
            assert self.standin.installed(name).read_bytes() == release[arch].read_bytes(), name
            assert self.standin.beside(name) == []
            assert not (self.standin.nodes / name / 'relay').exists(), print(run.output)
        assert not servers(self.standin), servers(self.standin)


def servers(standin):
    """Return the command lines of what still serves a folder of the stand-in, or watches over that."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        with contextlib.suppress(OSError):
            words = path.read_bytes().replace(b'\0', b' ').decode(errors='replace')
            if str(standin.nodes) in words and '/relay' in words and 'ansible' not in words:
                found.append(words[:200])
    return found


@pytest.fixture(name='fleet')
def fixture_fleet(standin):
    return Fleet(standin)


def test_one_copy_for_each_site_crosses_the_link_and_a_second_run_moves_nothing(fleet, release):
    for name in ('a1', 'a2', 'a3'):
        fleet.add(name, 'a')
    for name in ('b1', 'b2'):
        fleet.add(name, 'b')
    fleet.add('alone', 'c')
    fleet.add('none')
    run = fleet.run()
    fleet.assert_whole(run, release)
    size, sent = release[NATIVE].stat().st_size, fleet.pushed()
    assert {name for name, count in sent.items() if count > size / 10} == {'a1', 'b1', 'alone', 'none'}, sent
    assert all(count < size * 1.05 for count in sent.values()), sent
    came = fleet.came(run)
    assert {came[name][0] for name in ('a1', 'b1', 'alone', 'none')} == {'pushed'}, came
    assert {came[name][0] for name in ('a2', 'a3', 'b2')} == {'relayed'}, came
    assert 'relayed' in run.output
    again = fleet.run()
    assert (again.rc, again.changed(), max(fleet.pushed().values()) < size / 10) == (0, 0, True), again.output


def test_a_relay_gets_the_files_of_every_architecture_of_its_site(fleet, release):
    others = [arch for arch in support.BINARIES if arch != NATIVE][:2]
    for arch in others:
        release[arch].write_bytes(support.elf(arch, body=b'v1.31.4+k3s1' + os.urandom(SIZE)))
    archs = {f'{arch}{number}': arch for arch in (NATIVE, *others) for number in (1, 2)}
    for name, arch in archs.items():
        fleet.add(name, 'a', support.MACHINES[arch])
    run = fleet.run()
    fleet.assert_whole(run, release, archs)
    sent, sizes = fleet.pushed(), sum(release[arch].stat().st_size for arch in (NATIVE, *others))
    assert sizes * 0.95 < sent.pop(f'{NATIVE}1') < sizes * 1.05 and max(sent.values()) < SIZE / 10


def test_what_a_host_of_the_site_has_already_does_not_cross_the_link_again(fleet, release):
    fleet.add('a1', 'a')
    fleet.assert_whole(fleet.run(), release)
    fleet.add('new', 'a')
    run = fleet.run()
    fleet.assert_whole(run, release)
    assert max(fleet.pushed().values()) < SIZE / 10 and set(fleet.came(run)['new']) == {'relayed'}


LIAR = """
import http.server, sys
class Liar(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'lie' * 999999)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Liar).serve_forever()
"""


def wrong_file(fleet):
    """A relay that serves another file under the right name."""
    (fleet.standin.folder / 'liar.py').write_text(LIAR)
    fleet.standin.program('a1', 'python3', f'case $* in *http.server*) exec $real {fleet.standin.folder}/liar.py $4 ;; '
                                           'esac; exec $real "$@"')


def port_in_use(fleet):
    taken = socket.socket()
    taken.bind(('127.0.0.1', fleet.hosts['a1']['k3s_artifact_relay_port']))
    taken.listen()
    return taken


def folder_of_somebody_else(fleet):
    relay = fleet.standin.nodes / 'a1' / 'relay'
    relay.symlink_to(fleet.standin.nodes)
    return relay.unlink


def killed_server(fleet):
    fleet.standin.program('a1', 'python3', 'case $* in *http.server*) "$real" "$@" & sleep 3; kill $! ;; '
                                           '*) exec $real "$@" ;; esac')
    for name in ('a2', 'a3'):
        fleet.standin.program(name, 'curl', 'sleep 6; exec $real "$@"')


def unreachable_address(fleet):
    fleet.hosts['a1']['k3s_artifact_relay_address'] = '192.0.2.1'


def cut_at_half(fleet):
    fleet.standin.behave(cuts=[SIZE // 2])


@pytest.mark.parametrize('fault', [wrong_file, port_in_use, folder_of_somebody_else, killed_server, cut_at_half,
                                   unreachable_address], ids=lambda fault: fault.__name__)
def test_a_relay_that_fails_has_a_successor_and_no_more_than_two_copies_cross_the_link(fleet, release, fault):
    for name in ('a1', 'a2', 'a3', 'a4', 'a5'):
        fleet.add(name, 'a')
    undo = fault(fleet)
    run = fleet.run(env={'ANSIBLE_SSH_RETRIES': '0'})
    if callable(undo):
        undo()
    fleet.assert_whole(run, release)
    assert re.search('is no relay for its site|did not come from the relay', ' '.join(run.output.split())), run.output
    assert sum(fleet.pushed().values()) < 2.05 * release[NATIVE].stat().st_size, (fleet.pushed(), run.output)


def test_where_no_host_of_a_site_can_be_reached_by_another_each_is_sent_its_own(fleet, release):
    for name in ('a1', 'a2', 'a3', 'a4', 'a5'):
        fleet.add(name, 'a')
        fleet.standin.program(name, 'curl', 'exit 7')
    run = fleet.run()
    fleet.assert_whole(run, release)
    assert set(fleet.came(run)['a5']) == {'pushed'}


def test_a_host_without_room_for_the_files_of_its_site_is_not_its_relay(fleet, release):
    for name in ('a1', 'a2', 'a3'):
        fleet.add(name, 'a')
    (fleet.standin.nodes / 'a1' / 'data').mkdir()
    fleet.standin.program('a1', 'df', 'case $* in */a1) echo "x 9 9 0 100% /x" ;; *) exec $real "$@" ;; esac')
    run = fleet.run()
    fleet.assert_whole(run, release)
    assert {name for name, count in fleet.pushed().items() if count > SIZE / 10} == {'a2'}


@pytest.mark.parametrize('arguments', [['--check'], ['--limit', 'a2,a3']])
def test_check_mode_makes_no_relay_and_limit_makes_one_of_what_is_left(fleet, release, arguments):
    for name in ('a1', 'a2', 'a3'):
        fleet.add(name, 'a')
    run = fleet.run(*arguments)
    assert run.rc == 0, run.output
    sent = fleet.pushed()
    if arguments == ['--check']:
        assert max(sent.values()) < SIZE / 10 and not fleet.standin.installed('a1').exists()
    else:
        assert sent['a1'] == 0 and sent['a2'] > SIZE and sent['a3'] < SIZE / 10
        assert not fleet.standin.installed('a1').exists() and fleet.standin.installed('a3').exists()
    assert not servers(fleet.standin) and not (fleet.standin.nodes / 'a2' / 'relay').exists()


def test_a_play_that_is_killed_leaves_no_server_and_no_folder_after_the_time_of_the_relay(fleet, release):
    for name in ('a1', 'a2', 'a3'):
        fleet.add(name, 'a', k3s_artifact_relay_seconds=30)
    fleet.hosts['a3']['k3s_artifact_dest'] = '/proc/self/cwd/bin/k3s'
    fleet.standin.program('a3', 'curl', 'sleep 60')
    with pytest.raises(subprocess.TimeoutExpired):
        fleet.run(timeout=25)
    relay = fleet.standin.nodes / 'a1' / 'relay'
    assert relay.exists() and servers(fleet.standin)
    end = time.monotonic() + 45
    while relay.exists() or servers(fleet.standin):
        assert time.monotonic() < end, servers(fleet.standin)
        time.sleep(0.5)


def test_hosts_of_a_site_take_turns_on_its_link(fleet, release):
    """Each needs another file, so there is no relay. Each alone takes five seconds; together they take fifteen."""
    fleet.standin.behave(rate=MEGABYTE)
    for arch in list(support.BINARIES)[:3]:
        if arch != NATIVE:
            release[arch].write_bytes(support.elf(arch, body=b'v1.31.4+k3s1' + os.urandom(SIZE)))
        fleet.add(arch, 'a', support.MACHINES[arch], k3s_artifact_site_forks=1)
    began = time.monotonic()
    fleet.assert_whole(fleet.run(), release, {arch: arch for arch in fleet.hosts})
    assert time.monotonic() - began > 3 * SIZE / MEGABYTE


def test_a_relay_without_python_serves_with_busybox(fleet, release):
    for name in ('a1', 'a2', 'a3'):
        fleet.add(name, 'a')
    called = fleet.standin.folder / 'called'
    fleet.standin.program('a1', 'busybox', f'echo "$@" >>{called}; exec $real "$@"')
    path = only_client(fleet.standin, 'a1', 'curl')
    for python in Path(path).glob('python3*'):
        python.unlink()
    fleet.hosts['a1']['ansible_shell_executable'] = str(wrapped_shell(fleet.standin, path, 'a1'))
    run = fleet.run()
    fleet.assert_whole(run, release)
    assert {name for name, count in fleet.pushed().items() if count > SIZE / 10} == {'a1'}, run.output
    assert 'httpd -f -p 127.0.0.1' in called.read_text()


def busybox_only(standin, host):
    """Make a node of BusyBox alone: its shell, and its applets for everything else; return its variables."""
    applets = standin.nodes / host / 'applets'
    applets.mkdir()
    for name in subprocess.run(['busybox', '--list'], capture_output=True, text=True, check=True).stdout.split():
        (applets / name).symlink_to(shutil.which('busybox'))
    shell = standin.nodes / host / 'shell'
    shell.write_text(f'#!/bin/sh\nPATH={standin.nodes}/{host}/programs:{applets}\nexport PATH\n'
                     f'exec {applets}/sh "$@"\n')
    shell.chmod(0o755)
    return {'ansible_shell_executable': str(shell)}


@pytest.mark.parametrize('fault', ['', '404', 'another file', 'cut', 'drip'])
def test_a_node_of_busybox_alone_fetches_and_is_pushed_to_where_the_mirror_fails(standin, release, mirror, fault):
    mirror.fault = fault
    hosts = {'node': standin.host('node', MACHINE, OLD, k3s_artifact_url=mirror.url)}
    hosts['node'].update(busybox_only(standin, 'node'))
    run = standin.stage(hosts)
    assert_whole(standin, release, run)
    assert known_of(run)['came'] == ('pushed' if fault else 'fetched'), run.output


def test_a_site_of_busybox_alone_has_a_relay(fleet, release):
    for name in ('a1', 'a2', 'a3'):
        fleet.add(name, 'a')
        fleet.hosts[name].update(busybox_only(fleet.standin, name))
    run = fleet.run()
    fleet.assert_whole(run, release)
    assert {name for name, count in fleet.pushed().items() if count > SIZE / 10} == {'a1'}, run.output
    assert set(fleet.came(run)['a3']) == {'relayed'}


def test_a_relay_fetches_from_the_mirror_what_its_site_needs(fleet, release, mirror):
    for name in ('a1', 'a2', 'a3'):
        fleet.add(name, 'a', k3s_artifact_url=mirror.url)
    run = fleet.run()
    fleet.assert_whole(run, release)
    came = fleet.came(run)
    assert (set(came['a1']), set(came['a2'])) == ({'fetched'}, {'relayed'}) and max(fleet.pushed().values()) < SIZE / 10
    paths = [path for path, _headers in mirror.asked]
    assert len(paths) == len(set(paths)) == 2, paths


# --- past one controller


def test_an_execution_environment_of_the_page_has_a_context_and_the_programs_of_the_collection(tmp_path):
    page = (support.ROOT / 'docs' / 'fleets.md').read_text()
    blocks = re.findall(r'```yaml\n(.*?)```', page, re.DOTALL)
    definition, = (block for block in blocks if block.startswith('version: 3'))
    (tmp_path / 'ee.yml').write_text(definition)
    tarball, = set(re.findall(r'airgap-k3s-\S+\.tar\.gz', page))
    (tmp_path / tarball).write_bytes(b'the collection')
    for command in re.findall(r'`(ansible-builder create [^`]*)`', page):
        done = support.ansible(*command.split(), folder=tmp_path)
        assert done.returncode == 0, done.stdout
    build = tmp_path / 'context' / '_build'
    container, = (tmp_path / 'context').glob('*file')  # podman's and docker's have names of their own
    assert 'ansible-core~=2.18.0' in container.read_text()
    assert tarball in (build / 'requirements.yml').read_text()
    assert (build / 'collections' / tarball).read_bytes() == b'the collection'
    introspect = next((build / 'scripts').glob('introspect.py'))
    done = subprocess.run([sys.executable, introspect, 'introspect', support.collection_path(tmp_path)], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and 'zstd' in done.stdout and 'sshpass' in done.stdout, done.stdout + done.stderr
