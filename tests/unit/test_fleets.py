# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who serves what at a site, and at which address of a mirror a file is."""

from __future__ import annotations

import threading
import time

import pytest

import support

A, B, C = 'a' * 64, 'b' * 64, 'c' * 64


@pytest.fixture(name='relay', scope='module')
def fixture_relay():
    return support.collection_module('plugins.action.relay')


@pytest.fixture(name='copy', scope='module')
def fixture_copy():
    return support.collection_module('plugins.action.copy')


def host(site, *files, free=1000, **more):
    """Return what look found of a host; files: (digest, what is there)."""
    rows = [{'sha256': sha256, 'size': 100, 'source': f'/srv/{sha256[0]}', 'dest': f'/bin/{sha256[0]}',
             'installed': there, 'action': 'nothing' if there == 'same' else 'install',
             'bytes_to_send': 0 if there == 'same' else 100} for sha256, there in files]
    return {'site': site, 'problems': [], 'unreachable': False, 'relay_free': free, 'files': rows,
            'bytes_to_send': sum(row['bytes_to_send'] for row in rows), **more}


NEW, HAS = (A, 'absent'), (A, 'same')
CASES = {
    'the first host brings what two need': ([host('x', NEW), host('x', NEW)], {'x': {A: 0}}),
    'the first serves what only others need': ([host('x', NEW), host('x', (B, 'absent')), host('x', (B, 'absent'))],
                                               {'x': {B: 0}}),
    'a file that one host needs is sent to it': ([host('x', NEW), host('x', (B, 'absent'))], {'x': {}}),
    'who has it serves it': ([host('x', NEW), host('x', HAS)], {'x': {A: 1}}),
    'one who has it and one who brings': ([host('x', NEW, (B, 'absent')), host('x', HAS, (B, 'absent'))],
                                          {'x': {A: 1, B: 0}}),
    'nobody needs anything': ([host('x', HAS), host('x', HAS)], {'x': {}}),
    'sites are apart': ([host('x', NEW), host('y', NEW), host('x', NEW), host('y', HAS)], {'x': {A: 0}, 'y': {A: 3}}),
    'no room on the first': ([host('x', NEW, free=150), host('x', NEW, free=200)], {'x': {A: 1}}),
    'room is not told': ([host('x', NEW, free=None), host('x', NEW)], {'x': {A: 1}}),
    'no room anywhere': ([host('x', NEW, free=0), host('x', NEW, free=0)], {'x': {}}),
    'problems': ([host('x', NEW, problems=['p']), host('x', NEW), host('x', NEW)], {'x': {A: 1}}),
    'unreachable': ([host('x', NEW, unreachable=True), host('x', NEW), host('x', NEW)], {'x': {A: 1}}),
    'no site': ([host('', NEW), host('', NEW)], {}),
}


@pytest.mark.parametrize('case', CASES)
def test_a_relay_is_the_first_host_that_can_and_serves_what_its_site_needs(relay, case):
    hosts, expected = CASES[case]
    relays, sources, warnings = relay.chosen({f'h{number}': known for number, known in enumerate(hosts)})
    assert sources == {site: {sha256: f'h{number}' for sha256, number in served.items()}
                       for site, served in expected.items()}
    assert bool(warnings) == (case == 'no room anywhere')
    served = {(name, sha256) for of in sources.values() for sha256, name in of.items()}
    assert served == {(name, sha256) for name, mine in relays.items()
                      for sha256 in [*mine['has'], *(row['sha256'] for row in mine['bring'])]}


@pytest.mark.parametrize('row', [None, {}, {'size': 1, 'source': '/x', 'sha256': 'short'},
                                 {'size': '1', 'source': '/x', 'sha256': A}, {'size': 1, 'source': 1, 'sha256': A},
                                 {'size': 1, 'source': '/x\0', 'sha256': A}])
def test_nothing_is_brought_that_choose_cannot_have_noted(relay, row):
    assert relay.file_to_bring(row) is None


@pytest.mark.parametrize('value', [True, 1.5, [], {}, ['x']])
def test_a_site_is_a_name(relay, copy, value):
    assert relay.site_of('h', 'berlin') == 'berlin' and relay.site_of('h', 7) == '7' and relay.site_of('h', None) == ''
    with pytest.raises(copy.StagingError, match='k3s_artifact_site of h is'):
        relay.site_of('h', value)


@pytest.mark.parametrize('value', [0, 65536, '80 ', 'x', -1, None])
def test_a_port_is_the_number_of_one(relay, copy, value):
    assert relay.port_of('h', 80) == relay.port_of('h', '80') == 80
    with pytest.raises(copy.StagingError, match='k3s_artifact_relay_port of h is'):
        relay.port_of('h', value)


@pytest.mark.parametrize('forks', [1, 2])
def test_no_more_hosts_of_a_site_than_it_has_forks_are_in_turn_at_once(relay, monkeypatch, tmp_path, forks):
    monkeypatch.setattr(relay.C, 'DEFAULT_LOCAL_TMP', str(tmp_path), raising=False)
    inside, most = [], []

    def host_in_turn():
        with relay.turn('x', forks):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()
    hosts = [threading.Thread(target=host_in_turn) for _host in range(6)]
    for each in hosts:
        each.start()
    for each in hosts:
        each.join()
    assert max(most) == forks and len(most) == 6


URLS = [('http://m/a', '/srv', '/srv/k3s', 'http://m/a/k3s'),
        ('http://m/a/', '/srv/', '/srv/x/k3s', 'http://m/a/x/k3s'),
        ('http://m', '/srv', '/srv/v1+k3s1 a#?%', 'http://m/v1%2Bk3s1%20a%23%3F%25'),
        ('http://m', '/srv', '/srv2/k3s', ''),
        ('http://m', '', '/srv/k3s', ''), ('', '/srv', '/srv/k3s', '')]


@pytest.mark.parametrize(('url', 'root', 'path', 'expected'), URLS)
def test_the_address_of_a_file_is_its_path_below_the_artifact_directory(copy, url, root, path, expected):
    mirror = copy.mirror_of('h', {'k3s_artifact_url': url}.get, lambda: root)
    assert mirror.url_of(path) == expected


@pytest.mark.parametrize(('rate', 'expected'), [(None, None), ('2M', 2000000), ('500k', 500000), (70000, 70000),
                                                ('', None)])
def test_a_rate_is_in_bytes_a_second(copy, rate, expected):
    assert copy.mirror_of('h', {'k3s_artifact_rate': rate}.get, lambda: '').rate == expected


def test_where_a_file_waits_is_said_without_a_look(copy):
    job = copy.Job(copy_artifact(), 'archive', '/var/images/x.tar', '0644', None, None, False)
    assert copy.Delivery.path_of_waiting(job, 'up 12') == f'/var/.k3s-artifact.x.tar.{A}.12.part'
    assert copy.Delivery.path_of_waiting(job, 'dir 12') == f'/var/images/.k3s-artifact.x.tar.{A}.12.part'


def copy_artifact():
    return type('Artifact', (), {'sha256': A, 'size': 1})()
