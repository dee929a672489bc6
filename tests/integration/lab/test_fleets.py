# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mirror and a relay on real nodes: three architectures and BusyBox, with curl, with wget, and with neither."""

import json
import re
import socket
import subprocess
import time

import pytest
import yaml

import support
from lab import free_port
from lab_release import MEGABYTE
from standin.mirror import MirrorServer, write_certificates

SIZE = 4 * MEGABYTE
VERSION = 'v1.31.4+k3s1'
BINARY = '/usr/local/bin/k3s'
RELAY = '/var/tmp/k3s-artifact-relay'
FAULTS = {'404': 'location / { return 404; }', '500': 'location / { return 500; }',
          'login page': 'location / { return 200 "<html>Please log in</html>"; }',
          'redirect': 'location / { return 302 http://127.0.0.1:9/; }',
          'another file': 'location / { rewrite ^ /another break; }', '': ''}


@pytest.fixture(name='airgap', scope='module')
def fixture_airgap(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp('airgap')
    lab.release(folder, layout='per-arch', version=VERSION, size=SIZE, images_size=MEGABYTE)
    (folder / 'another').write_bytes(bytes(SIZE))
    for path in (folder, *folder.parents):
        if path.stat().st_uid == 0 and path.name:
            path.chmod(path.stat().st_mode | 0o055)
    return folder


@pytest.fixture(name='mirror')
def fixture_mirror(tmp_path, airgap):
    """A function that starts nginx as docs/fleets.md says, with a fault; it returns variables of hosts and its log."""
    started = []

    def start(fault=''):
        port, folder = free_port(), tmp_path / f'nginx{len(started)}'
        folder.mkdir()
        names = ('client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi')
        temporary = ' '.join(f'{name}_temp_path {folder}/{name};' for name in names)
        page = (support.ROOT / 'docs' / 'fleets.md').read_text()
        conf, = re.findall(r'```nginx\n(.*?)```', page, re.DOTALL)
        url, = re.findall(r'^k3s_artifact_url: (\S+)', page, re.MULTILINE)
        for said, here in (('http {', f'http {{ access_log {folder}/access; {temporary}'),
                           ('listen 8080;', f'listen 127.0.0.1:{port}; {FAULTS[fault]}'), ('/srv/airgap', str(airgap))):
            assert said in conf
            conf = conf.replace(said, here)
        (folder / 'conf').write_text(conf)
        started.append(subprocess.Popen(['nginx', '-c', str(folder / 'conf'), '-e', str(folder / 'error'), '-g',
                                         f'daemon off; master_process off; pid {folder}/pid;']))
        wait_until(lambda: answers(port), 20, (folder / 'error').read_text)
        return {'k3s_artifact_url': url.replace('mirror.example:8080', f'127.0.0.1:{port}')}, folder / 'access'

    yield start
    for each in started:
        each.terminate()
        each.wait()


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(('127.0.0.1', port)) == 0


def wait_until(condition, seconds, why):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, why()
        time.sleep(0.2)


@pytest.fixture(name='fleet')
def fixture_fleet(nodes, extra_nodes):
    """One node of each architecture and one of BusyBox, all as new."""
    fleet = {**nodes, 'busybox': extra_nodes('busybox')[0]}
    fleet['busybox'].path('/usr/local/bin').mkdir(parents=True, exist_ok=True)
    return fleet


def stage(tmp_path, lab, airgap, nodes, *arguments, of_host=None, **variables):
    """Run the playbook stage on nodes; of_host: variables by name of a node."""
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values(), k3s_artifact_dir=str(airgap), **variables)
    content = json.loads(inventory.read_text())
    for name, own in (of_host or {}).items():
        content['all']['hosts'][name].update(own)
    inventory.write_text(json.dumps(content))
    return support.play(tmp_path, 'airgap.k3s.stage', '-e', 'k3s_artifact_hosts=all', '--forks', '10', *arguments,
                        hosts=inventory, home='collection', timeout=500)


def came(run, nodes):
    """Return how the binary came to each node."""
    return {name: run.result(name, 'Put everything in place')['k3s_artifact']['files'][0]['came'] for name in nodes}


def assert_whole(run, nodes):
    assert run.rc == 0, run.output
    for name, node in nodes.items():
        assert support.elf_arch(node.path(BINARY)) == node.arch, name
        assert node.run(f'{BINARY} --version').stdout.startswith(f'k3s version {VERSION}'), name
        assert [path.name for path in node.path(BINARY).parent.glob('.*')] == []
        assert not node.path(RELAY).exists()
        assert 'relay' not in node.run('ps ax 2>/dev/null || ps').stdout


def test_nodes_of_every_kind_fetch_from_nginx_and_a_second_run_fetches_nothing(tmp_path, lab, airgap, fleet, mirror):
    variables, access = mirror()
    fleet['arm64'].path('/usr/bin/curl').unlink()
    run = stage(tmp_path, lab, airgap, fleet, **variables)
    assert_whole(run, fleet)
    assert set(came(run, fleet).values()) == {'fetched'}, run.output
    asked = access.read_text()
    again = stage(tmp_path, lab, airgap, fleet, **variables)
    assert (again.rc, again.changed(), access.read_text() == asked) == (0, 0, True), again.output


@pytest.mark.parametrize('fault', [fault for fault in FAULTS if fault])
def test_each_fault_of_a_mirror_means_a_push_on_every_kind_of_node(tmp_path, lab, airgap, fleet, mirror, fault):
    variables, _access = mirror(fault)
    fleet['arm64'].path('/usr/bin/curl').unlink()
    for program in ('curl', 'wget'):
        fleet['armhf'].path(f'/usr/bin/{program}').unlink()
    run = stage(tmp_path, lab, airgap, fleet, **variables)
    assert_whole(run, fleet)
    assert set(came(run, fleet).values()) == {'pushed'}, run.output
    shown = ' '.join(run.output.split())
    assert shown.count('did not come from the mirror') >= len(fleet) and 'neither curl nor wget' in shown, run.output
    assert fault == 'redirect' or 'refused' not in shown, run.output  # BusyBox follows it, to where nobody listens


@pytest.fixture(name='server')
def fixture_server(airgap):
    """A function that starts a web server for the artifact directory that can go wrong in mid-transfer."""
    started = []

    def start(*arguments, **words):
        started.append(MirrorServer(airgap, *arguments, **words))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.mark.parametrize('then', ['', 'no range', 'drip'])
def test_what_a_cut_left_is_continued_by_the_mirror_or_by_a_push(tmp_path, lab, airgap, fleet, server, then):
    """The binary breaks off at half on every node; the next run finds a mirror that can go on, cannot, or drips."""
    fleet['arm64'].path('/usr/bin/curl').unlink()
    mirror = server('cut', of='k3s(-arm64|-armhf)?')
    cut = stage(tmp_path, lab, airgap, fleet, k3s_artifact_url=mirror.url, k3s_artifact_url_only=True)
    assert cut.rc != 0 and not any(node.path(BINARY).exists() for node in fleet.values()), cut.output
    left = {name: [path.stat().st_size for path in node.path(BINARY).parent.glob('.k3s-artifact.*')]
            for name, node in fleet.items()}
    assert all(len(sizes) == 1 and sizes[0] >= SIZE // 3 for sizes in left.values()), left
    mirror.fault, mirror.sent = then, 0
    run = stage(tmp_path, lab, airgap, fleet, k3s_artifact_url=mirror.url)
    assert_whole(run, fleet)
    assert then or set(came(run, fleet).values()) == {'fetched'}, run.output
    assert then != 'drip' or set(came(run, fleet).values()) == {'pushed'}, run.output
    assert then or mirror.sent < len(fleet) * (SIZE * 0.7 + 2 * MEGABYTE)


def test_https_is_believed_where_the_node_has_the_ca_that_the_settings_name(tmp_path, lab, airgap, fleet, server):
    fleet['arm64'].path('/usr/bin/curl').unlink()
    del fleet['busybox']  # its wget checks no certificates, as docs/fleets.md says
    ca, certificate = write_certificates(tmp_path)
    for name in ('amd64', 'arm64'):
        fleet[name].path('/etc/own-ca.pem').write_bytes(ca.read_bytes())
    mirror = server(certificate=certificate)
    run = stage(tmp_path, lab, airgap, fleet, k3s_artifact_url=mirror.url,
                k3s_artifact_url_ca_path='/etc/own-ca.pem')
    assert_whole(run, fleet)
    assert came(run, fleet) == {'amd64': 'fetched', 'arm64': 'fetched', 'armhf': 'pushed'}, run.output
    assert 'did not come from the mirror' in ' '.join(run.output.split())


def test_a_site_of_three_architectures_gets_one_copy_of_each_and_others_get_their_own(tmp_path, lab, airgap, fleet,
                                                                                      extra_nodes):
    """The first amd64 node, two of arm64 and one of BusyBox are a site; armhf has none, and a site of one has one."""
    nodes = {**fleet, 'amd64-2': extra_nodes('amd64', 2)[1]}
    port = free_port()
    site = {'k3s_artifact_site': 'a', 'k3s_artifact_relay_port': port}
    of_host = {**dict.fromkeys(('amd64', 'busybox', 'amd64-2'), site),
               'arm64': {'k3s_artifact_site': 'b', 'k3s_artifact_relay_port': port}}
    check = stage(tmp_path, lab, airgap, nodes, '--check', of_host=of_host)
    assert check.rc == 0 and not any(node.path(BINARY).exists() for node in nodes.values()), check.output
    limited = {name: node for name, node in nodes.items() if name in ('busybox', 'amd64-2')}
    run = stage(tmp_path, lab, airgap, nodes, '--limit', 'busybox,amd64-2', of_host=of_host)
    assert_whole(run, limited)
    assert came(run, limited) == {'busybox': 'pushed', 'amd64-2': 'relayed'}
    run = stage(tmp_path, lab, airgap, nodes, of_host=of_host)
    assert_whole(run, nodes)
    assert came(run, ('amd64', 'arm64', 'armhf')) == {'amd64': 'relayed', 'arm64': 'pushed', 'armhf': 'pushed'}
    again = stage(tmp_path, lab, airgap, nodes, of_host=of_host)
    assert (again.rc, again.changed()) == (0, 0), again.output


def test_a_relay_of_one_architecture_serves_pairs_of_all(tmp_path, lab, airgap, nodes, extra_nodes):
    pairs = {**nodes, **{node.name: node for kind in ('amd64', 'arm64') for node in extra_nodes(kind, 2)}}
    run = stage(tmp_path, lab, airgap, pairs, k3s_artifact_site='a', k3s_artifact_relay_port=free_port())
    assert_whole(run, pairs)
    assert came(run, pairs) == {'amd64': 'pushed', 'arm64': 'relayed', 'armhf': 'pushed', 'amd64-2': 'relayed',
                                'arm64-2': 'relayed'}, run.output


LIAR = """
import http.server, sys
class Liar(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'lie' * 999999)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Liar).serve_forever()
"""


def test_a_relay_that_lies_is_refused_by_the_digest_and_has_a_successor(tmp_path, lab, airgap, extra_nodes):
    nodes = {node.name: node for node in extra_nodes('amd64', 4)}
    first, *others = nodes.values()
    first.path('/usr/local/lib/liar.py').write_text(LIAR)
    lie = first.path('/usr/local/bin/python3')
    lie.write_text('#!/bin/sh\ncase $* in *http.server*) exec /usr/bin/python3 /usr/local/lib/liar.py "$4" ;; esac\n'
                   'exec /usr/bin/python3 "$@"\n')
    lie.chmod(0o755)
    ports = {name: {'k3s_artifact_relay_port': 8700 + number} for number, name in enumerate(nodes)}  # one loopback
    run = stage(tmp_path, lab, airgap, nodes, of_host=ports, k3s_artifact_site='a')
    assert run.rc == 0, run.output
    assert sorted(came(run, [node.name for node in others]).values()) == ['pushed', 'relayed', 'relayed'], run.output
    assert 'did not come from the relay of its site' in ' '.join(run.output.split())
    lie.unlink()
    assert_whole(run, nodes)


def test_serial_makes_a_relay_in_each_batch(tmp_path, lab, airgap, extra_nodes):
    """A play of one's own, from the example of the module."""
    nodes = {node.name: node for node in extra_nodes('amd64', 4)}
    plays = yaml.safe_load(support.load_plugin('plugins/modules/relay.py').EXAMPLES)
    plays[0].update(hosts='all', serial=2)
    plays[0]['tasks'].append({'name': 'Put everything in place', 'airgap.k3s.stage': {'step': 'place', 'of': 'sent'}})
    inventory = lab.inventory(tmp_path / 'inventory.yml', nodes.values(), k3s_artifact_dir=str(airgap),
                              k3s_artifact_site='a', k3s_artifact_relay_port=free_port())
    run = support.play(tmp_path, plays, hosts=inventory, home='collection')
    assert_whole(run, nodes)
    assert list(came(run, nodes).values()) == ['pushed', 'relayed'] * 2
