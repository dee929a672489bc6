# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every example of docs/templates.md is run, as it is written there."""

from __future__ import annotations

import functools
import http.server
import re
import threading

import yaml

import support

TEXT = (support.ROOT / 'docs' / 'templates.md').read_text()
EXAMPLES = {language: re.findall(rf'```{language}\n(.*?)```', TEXT, re.DOTALL) for language in ('jinja', 'yaml')}
GATHER = {'name': 'gather', 'ansible.builtin.set_fact': {'architecture': '{{ machine }}', 'cacheable': True}}
HOSTS = {arch: {'machine': support.MACHINES[arch], 'airgap_dir': 'airgap', 'target': '{{ playbook_dir }}/' + arch}
         for arch in ('amd64', 'arm64', 'arm')}


def test_the_page_has_no_example_that_is_not_run():
    assert (len(EXAMPLES['jinja']), len(EXAMPLES['yaml']), TEXT.count('```')) == (2, 2, 8)


def test_the_templates_of_the_page_are_rendered_for_each_host(tmp_path):
    binaries = support.release(tmp_path / 'airgap')
    unit, table = EXAMPLES['jinja']
    (tmp_path / 'unit.j2').write_text(unit)
    (tmp_path / 'table.j2').write_text(table)
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': [GATHER, *(
        {'name': name, 'ansible.builtin.template': {'src': f'{name}.j2', 'dest': f'{{{{ target }}}}.{name}'}}
        for name in ('unit', 'table'))]}],
        hosts=HOSTS)
    assert run.rc == 0, run.output
    for arch in HOSTS:
        text = (tmp_path / f'{arch}.unit').read_text()
        assert f'Description=K3s for {arch}\n' in text
        assert f'# {support.BINARIES[arch]}, SHA-256 {support.sha256(binaries[arch])}\n' in text
        assert (tmp_path / f'{arch}.table').read_text().splitlines() == [
            f'{support.BINARIES[arch]} for {arch}', *(f'{other} gets {support.BINARIES[other]}' for other in HOSTS)]


def test_the_tasks_of_the_page_fetch_and_recognise_each_hosts_binary(tmp_path):
    binaries = support.release(tmp_path / 'airgap')
    (tmp_path / 'mirror').mkdir()
    (tmp_path / 'mirror' / 'v1.31.4+k3s1').symlink_to(tmp_path / 'airgap')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / 'mirror')
    tasks = [task for example in EXAMPLES['yaml'] for task in yaml.safe_load(example)]
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': [GATHER, *tasks], 'vars': {
            'mirror': f'http://127.0.0.1:{server.server_port}', 'k3s_version': 'v1.31.4+k3s1'}}], hosts=HOSTS)
        server.shutdown()
    assert run.rc == 0, run.output
    for arch in HOSTS:
        assert (tmp_path / arch).read_bytes() == binaries[arch].read_bytes()
        assert run.result(arch, 'Say whether it is the one of the release')['msg'] is True


def test_a_template_with_a_spoilt_binary_fails_and_writes_nothing(tmp_path):
    support.release(tmp_path / 'airgap')['arm'].write_text('<html>not found</html>')
    (tmp_path / 'unit.j2').write_text(EXAMPLES['jinja'][0])
    unit = {'name': 'unit', 'ansible.builtin.template': {'src': 'unit.j2', 'dest': '{{ target }}.unit'}}
    run = support.play(tmp_path, [{'hosts': 'all', 'gather_facts': False, 'tasks': [GATHER, unit]}],
                       hosts={'arm': HOSTS['arm']})
    assert run.rc == 2
    assert ('k3s-armhf is an HTML page, perhaps the error page of a download'
            in ' '.join(run.result('arm', 'unit')['msg'].split()))
    assert not (tmp_path / 'arm.unit').exists()
