# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook download, through ansible-playbook, against a real nginx that serves a release and has its bad days."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
VERSION = 'v1.31.4+k3s1'
BINARIES = {'amd64': 'k3s', 'arm64': 'k3s-arm64', 'arm': 'k3s-armhf'}
SCRIPT = b'#!/bin/sh\n' + b'# K3s puts itself in place.\n' * 3000
PAGE = '<!DOCTYPE html><html><title>Please log in</title></html>'

NGINX = """
daemon off;
user root; # when root runs the tests, its temporary folders are for root alone; ignored otherwise
pid {tmp}/nginx.pid;
error_log {tmp}/error.log;
events {{}}
http {{
    log_format requests '$server_port $request_method $request_uri $http_host $http_authorization';
    access_log {tmp}/access.log requests;
    client_body_temp_path {tmp}/t1; proxy_temp_path {tmp}/t2; fastcgi_temp_path {tmp}/t3; uwsgi_temp_path {tmp}/t4; scgi_temp_path {tmp}/t5;
    server {{
        listen 127.0.0.1:{port};
        root {tmp}/srv;
        location /slow/ {{ alias {tmp}/srv/good/; limit_rate 5k; }}
        # The upstream pauses after the first second's bytes, and nginx hangs up on it and on us: a connection that is cut in the middle.
        location /cut/ {{ proxy_pass http://127.0.0.1:{port}/slow/; proxy_buffering off; proxy_read_timeout 300ms; }}
        location /list404/ {{ return 404; }}
        location /list444/ {{ return 444; }}
        location /listpage/ {{ default_type text/html; return 200 '{page}'; }}
        location ~ ^/file500/.*/k3s$ {{ return 500; }}
        location ~ ^/filepage/.*/k3s$ {{ default_type text/html; return 200 '{page}'; }}
        location ~ ^/(file500|filepage)/(.*)$ {{ alias {tmp}/srv/good/$2; }}
    }}
    server {{
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {tmp}/server.pem;
        ssl_certificate_key {tmp}/server.key;
        location / {{
            auth_basic mirror;
            auth_basic_user_file {tmp}/users;
            rewrite ^/(.*)$ http://localhost:{port}/good/$1 redirect;
        }}
    }}
}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def make_release(folder):
    """A release of three architectures as K3s publishes it: each list holds the archives first, then the binary."""
    folder.mkdir(parents=True)
    for arch, binary in BINARIES.items():
        names = ['k3s-airgap-images-%s.tar%s' % (arch, ending) for ending in ('', '.gz', '.zst')] + [binary]
        for name in names:
            (folder / name).write_bytes(('%s of %s\n' % (name, arch)).encode() * 5000)
        (folder / ('sha256sum-%s.txt' % arch)).write_text(''.join('%s  %s\n' % (sha256(folder / name), name) for name in names))


def make_certificates(tmp):
    """A CA of our own and a certificate of its for the loopback address."""
    def openssl(*args):
        subprocess.run(['openssl', *args], cwd=str(tmp), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    new = ['req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
    (tmp / 'names').write_text('subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n')
    # Python 3.13 wants the key usage and the authority's key to be said.
    openssl(*new, '-x509', '-days', '2', '-subj', '/CN=Company CA', '-addext', 'keyUsage=critical,keyCertSign,cRLSign',
            '-keyout', 'ca.key', '-out', 'ca.pem')
    openssl(*new, '-subj', '/CN=127.0.0.1', '-keyout', 'server.key', '-out', 'server.csr')
    openssl('x509', '-req', '-days', '2', '-in', 'server.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial',
            '-extfile', 'names', '-out', 'server.pem')


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Mirror:
    """nginx, and what it was asked for."""

    def __init__(self, tmp):
        self.tmp, self.port, self.tls_port = tmp, free_port(), free_port()
        self.release = tmp / 'srv' / 'good' / VERSION
        make_release(self.release)
        (tmp / 'srv' / 'good' / 'install.sh').write_bytes(SCRIPT)
        shutil.copytree(str(tmp / 'srv' / 'good'), str(tmp / 'srv' / 'wronglist'))
        wrong = tmp / 'srv' / 'wronglist' / VERSION / 'sha256sum-amd64.txt'
        wrong.write_text(wrong.read_text().replace(sha256(self.release / 'k3s'), 'ab' * 32))
        make_certificates(tmp)
        (tmp / 'users').write_text('me:{PLAIN}secret\n')
        (tmp / 'nginx.conf').write_text(NGINX.format(tmp=tmp, port=self.port, tls_port=self.tls_port, page=PAGE))

    def url(self, case):
        return 'http://127.0.0.1:%d/%s' % (self.port, case)

    def requests(self):
        """What was asked for since the last time."""
        log = self.tmp / 'access.log'
        lines = log.read_text().splitlines()
        with open(str(log), 'w'):
            return lines


@pytest.fixture(scope='module')
def mirror(tmp_path_factory):
    program = shutil.which('nginx', path=os.environ['PATH'] + ':/usr/sbin')
    assert program, 'These tests need nginx: `make lab` installs it.'
    tmp = tmp_path_factory.mktemp('mirror')
    here = Mirror(tmp)
    server = subprocess.Popen([program, '-p', str(tmp), '-c', str(tmp / 'nginx.conf')])
    try:
        for dummy in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(('127.0.0.1', here.port)) == 0:
                    break
            assert server.poll() is None, (tmp / 'error.log').read_text()
            time.sleep(0.05)
        yield here
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope='module')
def collections(tmp_path_factory):
    folder = tmp_path_factory.mktemp('collections')
    (folder / 'ansible_collections' / 'airgap').mkdir(parents=True)
    (folder / 'ansible_collections' / 'airgap' / 'k3s').symlink_to(ROOT)
    return folder


class Controller:
    """ansible-playbook airgap.k3s.download, with one small architecture unless a test says more."""

    def __init__(self, tmp, collections, mirror):
        self.tmp, self.dir = tmp, tmp / 'airgap'
        self.inventory = {'localhost': {}}
        (tmp / 'ansible.cfg').write_text('')
        self.environment = {name: value for name, value in os.environ.items() if not name.lower().endswith('_proxy')}
        self.environment.update(ANSIBLE_COLLECTIONS_PATH=str(collections), ANSIBLE_CONFIG=str(tmp / 'ansible.cfg'), ANSIBLE_NOCOLOR='1', HOME=str(tmp))
        self.settings = {
            'k3s_version': VERSION, 'k3s_artifact_dir': str(self.dir), 'k3s_download_arches': 'amd64', 'k3s_download_images': 'none',
            'k3s_download_url': mirror.url('good'), 'k3s_download_install_url': '',
        }

    def start(self, *args, **settings):
        """A setting of None is not given at all."""
        given = {name: value for name, value in dict(self.settings, **settings).items() if value is not None}
        self.inventory.setdefault('localhost', {})['ansible_python_interpreter'] = sys.executable
        (self.tmp / 'inventory.json').write_text(json.dumps({'all': {'hosts': self.inventory}}))
        program = os.path.join(os.path.dirname(sys.executable), 'ansible-playbook')
        command = [program, '-i', str(self.tmp / 'inventory.json'), 'airgap.k3s.download', '-e', json.dumps(given), *args]
        return subprocess.Popen(command, cwd=str(self.tmp), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *args, **settings):
        process = self.start(*args, **settings)
        output = process.communicate(timeout=120)[0]
        return process.returncode, output

    def succeeds(self, *args, **settings):
        """How many tasks changed something, and the output."""
        code, output = self.run(*args, **settings)
        assert code == 0, output
        return int(re.search(r'changed=(\d+)', output).group(1)), output

    def fails(self, *args, **settings):
        """The last message, which is the sentence for people."""
        code, output = self.run(*args, **settings)
        assert code != 0, output
        assert 'Traceback' not in output
        return json.loads(re.findall(r'^fatal: .*? => (\{.*\})$', output, re.M)[-1])['msg']

    def files(self):
        """What lies below the artifact directory: path, and the mode as ls says it."""
        return {str(path.relative_to(self.dir)): '%04o' % (path.stat().st_mode & 0o7777)
                for path in self.dir.rglob('*') if not path.is_dir()}


@pytest.fixture
def controller(tmp_path, collections, mirror):
    mirror.requests()
    return Controller(tmp_path, collections, mirror)


def test_a_release_arrives_whole_and_only_once(controller, mirror):
    wanted = dict(k3s_download_arches='arm', k3s_download_images=None, k3s_download_install_url=mirror.url('good/install.sh'))
    controller.succeeds(**wanted)
    folder, archive = controller.dir / 'arm', 'k3s-airgap-images-arm.tar.zst'
    expected = {'arm/k3s': '0755', 'arm/' + archive: '0644', 'arm/sha256sum-arm.txt': '0644', 'arm/k3s-install.sh': '0755'}
    assert controller.files() == expected
    assert sha256(folder / 'k3s') == sha256(mirror.release / 'k3s-armhf')
    for name in archive, 'sha256sum-arm.txt':
        assert sha256(folder / name) == sha256(mirror.release / name)
    assert (folder / 'k3s-install.sh').read_bytes() == SCRIPT
    asked = ' '.join(mirror.requests())
    assert '/good/v1.31.4%2Bk3s1/k3s-armhf ' in asked and '+' not in asked

    assert controller.succeeds(**wanted)[0] == 0
    assert {line.split()[2].rsplit('/', 1)[1] for line in mirror.requests()} == {'sha256sum-arm.txt', 'install.sh'}


REFUSED = {
    'no version': (dict(k3s_version=None), 'k3s_version is not set'),
    'a version without its v': (dict(k3s_version='1.31.4+k3s1'), "k3s_version is '1.31.4+k3s1': give it the name of a K3s release, with its v"),
    'no folder': (dict(k3s_artifact_dir=None), 'Neither k3s_artifact_dir nor airgap_dir is set'),
    'a relative folder': (dict(k3s_artifact_dir='airgap'), "'airgap' is a relative path"),
    'an unknown architecture': (dict(k3s_download_arches='amd64,mips'), 'k3s_download_arches names mips: K3s is released for amd64, arm64, arm'),
    'an unknown compression': (dict(k3s_download_images='xz'), "k3s_download_images is 'xz'"),
    'a password in the address': (dict(k3s_download_url='https://me:secret@mirror/k3s'), 'without a name and a password in them'),
    'no CA file': (dict(k3s_download_ca_path='/nowhere/ca.pem'), "k3s_download_ca_path is '/nowhere/ca.pem', and there is no such file"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_wrong_setting_is_refused_before_anything_is_asked_for(controller, mirror, case):
    settings, sentence = REFUSED[case]
    assert sentence in controller.fails(**settings)
    assert mirror.requests() == []


FAULTS = {
    'list404': ['No checksum list for amd64 from', '404', 'Check that k3s_version names a release'],
    'list444': ['No checksum list for amd64 from', 'try again later'],
    'listpage': ["sha256sum-amd64.txt is no checksum list: it begins with '<!DOCTYPE html>", 'a page for people'],
    'file500': ['No k3s for amd64 from', '500', 'try again later'],
    'filepage': ['No k3s for amd64 from', 'What came is not the file that sha256sum-amd64.txt names'],
    'wronglist': ['No k3s for amd64 from', 'What came is not the file that sha256sum-amd64.txt names'],
    'cut': ['No k3s for amd64 from', 'the connection broke off'],
}


@pytest.mark.parametrize('case', FAULTS)
def test_a_fault_is_named_and_what_was_there_stays(controller, mirror, case):
    before = controller.dir / 'amd64' / 'k3s'
    before.parent.mkdir(parents=True)
    before.write_text('of the release before')
    message = controller.fails(k3s_download_url=mirror.url(case))
    for part in FAULTS[case]:
        assert part in message
    assert before.read_text() == 'of the release before'
    assert [path for path in controller.files() if '.partial/' not in path] == ['amd64/k3s']


@pytest.mark.parametrize('address, sentence', [
    ('cut/install.sh', 'the connection broke off in the middle'),
    ('listpage/install.sh', "what came is no script, it begins with '<!DOCTYPE html>"),
])
def test_an_install_script_that_is_none_is_refused(controller, mirror, address, sentence):
    assert sentence in controller.fails(k3s_download_install_url=mirror.url(address))
    assert not controller.dir.exists()


def test_a_company_mirror_with_a_private_ca_a_password_and_a_redirect_works(controller, mirror):
    dummy, output = controller.succeeds(
        '-vvv', k3s_download_arches='amd64,arm64', k3s_download_url='https://127.0.0.1:%d' % mirror.tls_port,
        k3s_download_ca_path=str(mirror.tmp / 'ca.pem'),
        k3s_download_username='me', k3s_download_password='secret', k3s_download_force_basic_auth=True)
    for arch in 'amd64', 'arm64':
        assert sha256(controller.dir / arch / 'k3s') == sha256(mirror.release / BINARIES[arch])
    assert 'secret' not in output
    requests = mirror.requests()
    assert [line for line in requests if line.startswith('%d ' % mirror.tls_port) and 'Basic ' in line]
    assert [line for line in requests if line.startswith('%d ' % mirror.port) and 'Basic ' in line] == []


def test_a_proxy_is_used(controller, mirror):
    controller.succeeds(k3s_download_url='http://k3s.invalid/good', k3s_download_environment={'http_proxy': mirror.url('')})
    assert all(' k3s.invalid ' in line for line in mirror.requests())


def test_an_inventory_whose_machines_are_known_decides_what_is_fetched(controller):
    controller.inventory = {'pi': {'k3s_artifact_machine': 'armv7l'}, 'server': {'k3s_artifact_machine': 'x86_64'}}
    dummy, output = controller.succeeds('--check', k3s_download_arches=None)
    assert 'for amd64, arm.' in output


def test_machines_of_the_inventory_without_a_release_are_named_with_their_hosts(controller, mirror):
    controller.inventory = {'server': {'k3s_artifact_machine': 'x86_64'}, 'pi-zero': {'k3s_artifact_machine': 'armv6l'}, 'pi-one': {'k3s_artifact_machine': 'armv6l'}}
    mirror.requests()
    message = controller.fails(k3s_download_arches=None)
    assert 'K3s has no release for pi-one (armv6l), pi-zero (armv6l). Name the architectures' in message
    assert not mirror.requests() and not controller.dir.exists()
    controller.succeeds(k3s_download_arches='amd64')


def test_without_machines_all_is_fetched_and_a_check_changes_nothing(controller):
    controller.inventory = {'pi': {'k3s_artifact_machine': 'armv7l'}, 'other': {}}
    changed, output = controller.succeeds('--check', k3s_download_arches=None)
    assert 'for amd64, arm, arm64. The release has nothing for ' in output
    assert changed == 3
    assert not controller.dir.exists()


def test_a_killed_run_leaves_what_was_there_and_the_next_run_repairs_it(controller, mirror):
    folder = controller.dir / 'arm64'
    folder.mkdir(parents=True)
    (folder / 'k3s').write_text('a corrupted one')
    (folder / 'k3s-arm64').write_text('one of another release, which would be found first')
    before = controller.files()
    process = controller.start(k3s_download_arches='arm64', k3s_download_url=mirror.url('slow'))
    deadline = time.time() + 60
    while not list(folder.glob('.partial/unverified/*')):
        assert time.time() < deadline and process.poll() is None, 'The download never began.'
        time.sleep(0.05)
    for pid in reversed(family(process.pid)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    half = {path for path in controller.files() if path.startswith('arm64/.partial/unverified/')}
    assert half and controller.files().keys() - half == before.keys()
    assert (folder / 'k3s').read_text() == 'a corrupted one'

    controller.succeeds(k3s_download_arches='arm64')
    assert controller.files() == {'arm64/k3s': '0755', 'arm64/sha256sum-arm64.txt': '0644'}
    assert sha256(folder / 'k3s') == sha256(mirror.release / 'k3s-arm64')


def family(pid):
    """A process and all that it has started, parents first."""
    children = {}
    for line in subprocess.run(['ps', '-eo', 'ppid=,pid='], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        parent, child = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found.extend(children.get(each, []))
    return found
