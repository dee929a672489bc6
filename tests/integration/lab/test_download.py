# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook download, through ansible-playbook, against a real nginx with TLS. Needs nginx and openssl, but no
nodes.

What servers do on bad days is in ../test_download.py.
"""

import json
import os
import shutil
import socket
import subprocess
import time

import pytest

import support

VERSION = 'v1.31.4+k3s1'
ARCHES = ('amd64', 'arm64', 'arm')
SCRIPT = b'#!/bin/sh\n' + b'# K3s puts itself in place.\n' * 3000
OLD = 'of the release before'

NGINX = """
daemon off;
user root; # when root runs the tests, its temporary folders are for root alone; ignored otherwise
pid {tmp}/nginx.pid;
error_log {tmp}/error.log;
events {{}}
http {{
    log_format requests '$server_port $request_method $request_uri $http_authorization $http_range';
    access_log {tmp}/access.log requests;
    client_body_temp_path {tmp}/t1; proxy_temp_path {tmp}/t2; fastcgi_temp_path {tmp}/t3;
    uwsgi_temp_path {tmp}/t4; scgi_temp_path {tmp}/t5;
    server {{
        listen 127.0.0.1:{port};
        root {tmp}/srv;
        location /slow/ {{ alias {tmp}/srv/good/; limit_rate 50k; }}
        # The upstream pauses after the first second's bytes, and nginx hangs up on it and on us: a connection that is
        # cut in the middle.
        location /cut/ {{ proxy_pass http://127.0.0.1:{port}/slow/; proxy_buffering off; proxy_read_timeout 300ms; }}
    }}
    server {{
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {tmp}/server.pem;
        ssl_certificate_key {tmp}/server.key;
        root {tmp}/srv;
        location /mirror/ {{ rewrite ^/mirror/(.*)$ http://localhost:{port}/good/$1 redirect; }}
        location /closed/ {{ alias {tmp}/srv/good/; auth_basic mirror; auth_basic_user_file {tmp}/users; }}
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
    for arch in ARCHES:
        names = [f'k3s-airgap-images-{arch}.tar{ending}' for ending in ('', '.gz', '.zst')] + [support.BINARIES[arch]]
        for name in names[:-1]:
            (folder / name).write_bytes(f'{name} of {arch}\n'.encode() * 5000)
        (folder / names[-1]).write_bytes(support.elf(arch, body=f'K3s v1.31.4+k3s1 for {arch} '.encode() * 10000))
        (folder / f'sha256sum-{arch}.txt').write_text(''.join(f'{support.sha256(folder / name)}  {name}\n'
                                                              for name in names))


def make_certificates(tmp):
    """A CA of our own and a certificate of its for the loopback address."""
    def openssl(*args):
        subprocess.run(['openssl', *args], cwd=str(tmp), check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    new = ['req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
    (tmp / 'names').write_text('subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n')
    # Python 3.13 wants the key usage and the authority's key to be said.
    openssl(*new, '-x509', '-days', '2', '-subj', '/CN=Company CA', '-addext', 'keyUsage=critical,keyCertSign,cRLSign',
            '-keyout', 'ca.key', '-out', 'ca.pem')
    openssl(*new, '-subj', '/CN=127.0.0.1', '-keyout', 'server.key', '-out', 'server.csr')
    openssl('x509', '-req', '-days', '2', '-in', 'server.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial',
            '-extfile', 'names', '-out', 'server.pem')


class Mirror:
    """nginx, and what it was asked for."""

    def __init__(self, tmp):
        self.tmp, self.port, self.tls_port = tmp, free_port(), free_port()
        self.release = tmp / 'srv' / 'good' / VERSION
        make_release(self.release)
        (tmp / 'srv' / 'good' / 'install.sh').write_bytes(SCRIPT)
        make_certificates(tmp)
        (tmp / 'users').write_text('me:{PLAIN}geheim\n')
        (tmp / 'nginx.conf').write_text(NGINX.format(tmp=tmp, port=self.port, tls_port=self.tls_port))

    def url(self, case):
        return f'http://127.0.0.1:{self.port}/{case}'

    def tls(self, case):
        return f'https://127.0.0.1:{self.tls_port}/{case}'

    def requests(self):
        """What was asked for since the last time: port, method, path, credentials, range."""
        log = self.tmp / 'access.log'
        lines = log.read_text().splitlines()
        with open(str(log), 'w'):
            return lines


@pytest.fixture(scope='module', name='nginx')
def fixture_nginx(tmp_path_factory):
    program = shutil.which('nginx', path=os.environ['PATH'] + ':/usr/sbin')
    assert program, 'These tests need nginx: `make lab` installs it.'
    tmp = tmp_path_factory.mktemp('mirror')
    here = Mirror(tmp)
    server = subprocess.Popen([program, '-p', str(tmp), '-c', str(tmp / 'nginx.conf')])
    try:
        for _try in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(('127.0.0.1', here.port)) == 0:
                    break
            assert server.poll() is None, (tmp / 'error.log').read_text()
            time.sleep(0.05)
        yield here
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(name='mirror')
def fixture_mirror(nginx):
    nginx.requests()
    return nginx


def download(tmp_path, mirror, *arguments, **settings):
    """Run the playbook for amd64 without an archive and a script, unless *settings* say more."""
    given = {'k3s_version': VERSION, 'k3s_artifact_dir': str(tmp_path / 'airgap'), 'k3s_download_arches': 'amd64',
             'k3s_download_images': 'none',
             'k3s_download_url': mirror.url('good'), 'k3s_download_install_url': '', **settings}
    env = dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'all_proxy'), '')
    return support.play(tmp_path, 'airgap.k3s.download', '-e', json.dumps(given), *arguments, home='collection',
                        env=env, hosts={'localhost': {}})


def message(run):
    assert run.rc != 0 and 'Traceback' not in run.output, run.output
    return run.result('localhost', 'Fetch and verify what is missing')['msg']


def test_a_release_arrives_whole_and_only_once(tmp_path, mirror):
    wanted = {'k3s_download_arches': 'arm', 'k3s_download_images': 'zst',
              'k3s_download_install_url': mirror.url('good/install.sh')}
    assert download(tmp_path, mirror, **wanted).rc == 0
    folder, archive = tmp_path / 'airgap' / 'arm', 'k3s-airgap-images-arm.tar.zst'
    assert {path.name for path in folder.iterdir()} == {'k3s', archive, 'sha256sum-arm.txt', 'k3s-install.sh'}
    for name, released in (('k3s', 'k3s-armhf'), (archive, archive), ('sha256sum-arm.txt', 'sha256sum-arm.txt')):
        assert support.sha256(folder / name) == support.sha256(mirror.release / released)
    assert (folder / 'k3s-install.sh').read_bytes() == SCRIPT
    asked = ' '.join(mirror.requests())
    assert '/good/v1.31.4%2Bk3s1/k3s-armhf ' in asked and '+' not in asked

    assert download(tmp_path, mirror, **wanted).changed() == 0
    assert {line.split()[2].rsplit('/', 1)[1] for line in mirror.requests()} == {'sha256sum-arm.txt', 'install.sh'}


def test_a_connection_that_nginx_cuts_is_named_and_continued_by_the_next_run(tmp_path, mirror):
    before = tmp_path / 'airgap' / 'amd64' / 'k3s'
    before.parent.mkdir(parents=True)
    before.write_text(OLD)
    assert ('the connection broke off in the middle'
            in message(download(tmp_path, mirror, k3s_download_url=mirror.url('cut'))))
    rest = before.parent / '.partial' / f'k3s-{support.sha256(mirror.release / "k3s")}'
    had = rest.stat().st_size
    assert had and before.read_text() == OLD
    mirror.requests()
    assert download(tmp_path, mirror).rc == 0
    assert mirror.requests()[-1].endswith(f'bytes={had}-')
    assert support.sha256(before) == support.sha256(mirror.release / 'k3s') and not rest.parent.exists()


def test_a_company_mirror_with_a_private_ca_a_password_and_a_redirect_works(tmp_path, mirror):
    run = download(tmp_path, mirror, '-vvv', k3s_download_arches='amd64,arm64', k3s_download_url=mirror.tls('mirror'),
                   k3s_download_ca_path=str(mirror.tmp / 'ca.pem'),
                   k3s_download_username='me', k3s_download_password='geheim', k3s_download_force_basic_auth=True)
    assert run.rc == 0, run.output
    for arch in 'amd64', 'arm64':
        assert (support.sha256(tmp_path / 'airgap' / arch / 'k3s')
                == support.sha256(mirror.release / support.BINARIES[arch]))
    assert 'geheim' not in run.output
    assert ('redirects to an address without TLS: nobody vouches for what came from there'
            in ' '.join(run.output.split()))
    requests = mirror.requests()
    assert [line for line in requests if line.startswith(f'{mirror.tls_port} ') and 'Basic ' in line]
    assert [line for line in requests if line.startswith(f'{mirror.port} ') and 'Basic ' in line] == []


def test_a_password_is_only_sent_to_who_asks_and_a_wrong_one_is_named(tmp_path, mirror):
    settings = {'k3s_download_url': mirror.tls('closed'), 'k3s_download_ca_path': str(mirror.tmp / 'ca.pem'),
                'k3s_download_username': 'me'}
    assert 'it answers 401 (Unauthorized). Check k3s_download_username' in message(
        download(tmp_path, mirror, k3s_download_password='falsch', **settings))
    assert download(tmp_path, mirror, k3s_download_password='geheim', **settings).rc == 0


@pytest.mark.parametrize('settings', [{}, {'k3s_download_environment': {'SSL_CERT_FILE': '/dev/null'}}])
def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path, mirror, settings):
    assert ('its certificate is not trusted'
            in message(download(tmp_path, mirror, k3s_download_url=mirror.tls('good'), **settings)))
    assert not (tmp_path / 'airgap').exists()


def test_the_ca_may_also_be_named_in_the_environment_of_the_play(tmp_path, mirror):
    run = download(tmp_path, mirror, k3s_download_url=mirror.tls('good'),
                   k3s_download_environment={'SSL_CERT_FILE': str(mirror.tmp / 'ca.pem')})
    assert run.rc == 0, run.output
    assert support.sha256(tmp_path / 'airgap/amd64/k3s') == support.sha256(mirror.release / 'k3s')
