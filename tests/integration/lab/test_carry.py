# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole way: packed on a machine with a network, carried to one without, staged on three architectures, upgraded,
rolled back.

The machine inside is a network namespace that has a loopback and nothing else. To the nodes, whose ports are outside of
it, lead sockets in the file system, through ssh's ProxyCommand.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

import signing
import support
from lab_node import HOST_KEY_OPTIONS

OLD, NEW = 'v1.31.4+k3s1', 'v1.32.1+k3s1'
ARCHS = {'amd64': 'amd64', 'arm64': 'arm64', 'armhf': 'arm'}  # by node
IMAGES, BIN = '/var/lib/rancher/k3s/agent/images', '/usr/local/bin'
NGINX = """
daemon off; user root; pid {tmp}/nginx.pid; error_log {tmp}/error.log;
events {{}}
http {{ access_log off; client_body_temp_path {tmp}/t1; proxy_temp_path {tmp}/t2; fastcgi_temp_path {tmp}/t3;
    uwsgi_temp_path {tmp}/t4; scgi_temp_path {tmp}/t5;
    server {{ listen 127.0.0.1:{port}; root {tmp}/srv; }} }}
"""
# What leads from standard input and output to a socket in the file system.
PROXY = """
import os, select, socket, sys
there = socket.socket(socket.AF_UNIX)
there.connect(sys.argv[1])
while True:
    ready = select.select([0, there], [], [])[0]
    data = there.recv(65536) if there in ready else b''
    if there in ready and not data:
        break
    while data:
        data = data[os.write(1, data):]
    if 0 in ready:
        data = os.read(0, 65536)
        there.sendall(data) if data else sys.exit()
"""
INSIDE = ('unshare', '--net', 'sh', '-c', 'ip link set lo up; exec "$@"', 'sh')


@pytest.fixture(name='keys')
def fixture_keys():
    with signing.keys() as folder:
        yield folder


@pytest.fixture(name='mirror')
def fixture_mirror(tmp_path, lab):
    """nginx, with two releases as K3s publishes them; the variables that name it."""
    program = shutil.which('nginx', path=os.environ['PATH'] + ':/usr/sbin')
    for version in (OLD, NEW):
        released = tmp_path / 'web' / 'srv' / version
        lab.release(released, layout='flat', version=version, size=3_000_000, images_size=500_000)
        shutil.copy(released / 'k3s-install.sh', tmp_path / 'web' / 'srv' / 'install.sh')
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    (tmp_path / 'web' / 'nginx.conf').write_text(NGINX.format(tmp=tmp_path / 'web', port=port))
    server = subprocess.Popen([program, '-p', tmp_path / 'web', '-c', tmp_path / 'web' / 'nginx.conf'])
    try:
        for _try in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(('127.0.0.1', port)) == 0:
                    break
            time.sleep(0.05)
        url = f'http://127.0.0.1:{port}'
        yield {'k3s_download_url': url, 'k3s_download_install_url': f'{url}/install.sh',
               'k3s_download_arches': list(ARCHS.values())}
    finally:
        server.terminate()
        server.wait(10)


def relay(one, other):
    with contextlib.suppress(OSError):
        for data in iter(lambda: one.recv(65536), b''):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def forward(listener, address):
    """Lead each connection to a socket on to *address*."""
    with contextlib.suppress(OSError):
        while True:
            here, there = listener.accept()[0], socket.create_connection(address)
            for pair in ((here, there), (there, here)):
                threading.Thread(target=relay, args=pair, daemon=True).start()


@pytest.fixture(name='ways')
def fixture_ways(short, nodes):
    """A folder with a socket for each node, called like its port."""
    listeners = []
    for node in nodes.values():
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(str(short / str(node.port)))
        listeners[-1].listen(100)
        threading.Thread(target=forward, args=(listeners[-1], (node.host, node.port)), daemon=True).start()
    (short / 'proxy.py').write_text(PROXY)
    yield short
    for listener in listeners:
        listener.close()


class Controller:
    """The machine inside: it has a folder, an inventory and the public key, and no network."""

    def __init__(self, folder, lab, nodes, ways, key):
        self.folder, self.controls = folder, ways / 'cp'  # a socket has a short path
        folder.mkdir()
        shutil.copy(key, folder / 'k3s-release.gpg')
        proxy = f"-o 'ProxyCommand={sys.executable} -IS {ways}/proxy.py {ways}/%p'"
        lab.inventory(folder / 'inventory.yml', nodes.values(),
                      ansible_ssh_common_args=f'{" ".join(HOST_KEY_OPTIONS)} {proxy}')

    def shell(self, *command):
        return subprocess.run([*INSIDE, *map(str, command)], cwd=self.folder, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, env=support.environment(
                                  self.folder, ANSIBLE_COLLECTIONS_PATH=support.collection_path(self.folder),
                                  ANSIBLE_SSH_CONTROL_PATH_DIR=str(self.controls)))

    def play(self, playbook, version, **variables):
        settings = {'k3s_artifact_dir': f'{self.folder}/{version}', 'k3s_artifact_verify': 'signed',
                    'k3s_artifact_keyring': f'{self.folder}/k3s-release.gpg', 'k3s_artifact_hosts': 'all', **variables}
        done = self.shell(support.PROGRAMS / 'ansible-playbook', '-i', 'inventory.yml', f'airgap.k3s.{playbook}', '-e',
                          json.dumps(settings))
        assert done.returncode == 0, done.stdout
        return done.stdout


def test_the_whole_way_across_the_gap_and_back(tmp_path, lab, nodes, ways, keys, mirror):
    connected = tmp_path / 'connected'
    connected.mkdir()
    inside = Controller(tmp_path / 'inside', lab, nodes, ways, keys / 'good.gpg')
    assert inside.shell('ip', '-o', '-4', 'address').stdout.count('\n') == 1
    port = nodes['amd64'].port
    probe = f'import socket; print(socket.socket().connect_ex(("127.0.0.1", {port})))'
    assert inside.shell(sys.executable, '-c', probe).stdout.strip() != '0'
    for node in nodes.values():  # what an earlier playbook has left
        node.path(IMAGES).mkdir(parents=True)
        (node.path(IMAGES) / 'k3s-airgap-images-s390x.tar.gz').write_text('another architecture')
        (node.path(IMAGES) / 'own.tar.gz').write_text('not ours')

    for version in (OLD, NEW):
        settings = {**mirror, 'k3s_version': version, 'k3s_artifact_dir': f'{connected}/{version}',
                    'k3s_artifact_sign_key': 'good@example.com'}
        packed = support.play(connected, 'airgap.k3s.bundle', '-e', json.dumps(settings), home='collection',
                              env={'GNUPGHOME': str(keys / 'home')})
        assert packed.rc == 0, packed.output
        subprocess.run(['tar', '-C', inside.folder, '-xf', connected / f'{version}.tar'], check=True)
        for said in (inside.play('verify', version), inside.play('preflight', version, k3s_artifact_hosts='localhost')):
            assert f'those that were signed: K3s {version}.' in said
        inside.play('preflight', version)
        inside.play('stage', version, k3s_artifact_keep_previous=True, k3s_artifact_prune=version == NEW)
        for name, arch in ARCHS.items():
            node = nodes[name]
            released = tmp_path / 'web' / 'srv' / version / support.BINARIES[arch]
            assert support.sha256(node.path(f'{BIN}/k3s')) == support.sha256(released)
            assert node.run(f'{BIN}/k3s --version').stdout.startswith(f'k3s version {version} ')
            images = sorted(path.name for path in node.path(IMAGES).iterdir())
            left = ['k3s-airgap-images-s390x.tar.gz'] if version == OLD else []
            assert images == sorted([f'k3s-airgap-images-{arch}.tar.zst', 'own.tar.gz', *left])
            assert node.path(f'{BIN}/k3s.previous').exists() == (version == NEW)
    assert 'does not support going back' in ' '.join(inside.play('rollback', NEW).split())
    for name in ARCHS:
        assert nodes[name].run(f'{BIN}/k3s --version').stdout.startswith(f'k3s version {OLD} ')
        assert sorted(path.name for path in nodes[name].path(BIN).iterdir()) == ['k3s', 'k3s-install.sh']

    binary = inside.folder / NEW / 'arm64' / 'k3s'
    binary.write_bytes(binary.read_bytes() + b'x')
    for playbook in ('verify', 'preflight'):
        with pytest.raises(AssertionError, match='arm64/k3s is not the file that was signed'):
            inside.play(playbook, NEW, k3s_artifact_hosts='localhost')
