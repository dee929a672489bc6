# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures a site behind a slow link, and a mirror: nodes in network namespaces behind one bridge, which is the link.

    python benchmarks/fleets.py [--rows site,architectures,mirror,killed] [--rounds 3]

Needs root, iproute2, sshd and nginx. A node is a namespace with an sshd of its own, and a folder of this machine. What
the controller sends crosses the bridge's own interface, where tc slows it and where bytes are counted; what a node
sends to a neighbour goes from port to port and does not. Seconds are of a whole run of the playbook stage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests'))

import support  # noqa: E402

MEGABYTE = 1 << 20
SIZE = 65 * MEGABYTE
RATE = '20mbit'
BRIDGE, NETWORK = 'k3sfleet', '10.204.77'
RESULTS = ROOT / 'benchmarks' / 'fleets.json'
SSHD = """ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/pid-{name}
PermitRootLogin yes
StrictModes no
UsePAM no
MaxStartups 100
Subsystem sftp internal-sftp
"""
NGINX = """daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.error;
events {{ }}
http {{ access_log off; sendfile on; {temporary} server {{ listen {address}:8080; root {airgap}; }} }}
"""


def run(*command, **how):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, **how).stdout


class Network:
    """Namespaces behind one bridge; *folder* holds what their sshd needs. Everything is gone afterwards."""

    def __init__(self, folder):
        self.folder, self.names, self.servers = folder, {}, []

    def __enter__(self):
        for key in ('key', 'host_key'):
            run('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', self.folder / key)
        Path('/run/sshd').mkdir(exist_ok=True)
        run('ip', 'link', 'add', BRIDGE, 'type', 'bridge')
        run('ip', 'address', 'add', f'{NETWORK}.1/24', 'dev', BRIDGE)
        run('ip', 'link', 'set', BRIDGE, 'up')
        return self

    def __exit__(self, *_):
        for name in self.names:
            self.end(name)
        subprocess.run(['ip', 'link', 'delete', BRIDGE], check=False)

    def add(self, name):
        """Make the namespace of a node; return its address."""
        number = len(self.names) + 10
        address, inside = f'{NETWORK}.{number}', ('ip', '-n', f'{BRIDGE}-{name}')
        self.names[name] = address
        run('ip', 'netns', 'add', f'{BRIDGE}-{name}')
        run('ip', 'link', 'add', f'{BRIDGE}{number}', 'type', 'veth', 'peer', 'name', 'eth0', 'netns',
            f'{BRIDGE}-{name}')
        run('ip', 'link', 'set', f'{BRIDGE}{number}', 'master', BRIDGE, 'up')
        run(*inside, 'address', 'add', f'{address}/24', 'dev', 'eth0')
        for device in ('lo', 'eth0'):
            run(*inside, 'link', 'set', device, 'up')
        return address

    def start(self, name, *command):
        self.servers.append(subprocess.Popen(['ip', 'netns', 'exec', f'{BRIDGE}-{name}', *map(str, command)],
                                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def node(self, name):
        """Make a node that ssh reaches; return its address."""
        address = self.add(name)
        config = self.folder / f'sshd-{name}'
        config.write_text(SSHD.format(address=address, folder=self.folder, name=name))
        self.start(name, '/usr/sbin/sshd', '-D', '-f', config)
        return address

    def processes(self, name):
        return [int(pid) for pid in run('ip', 'netns', 'pids', f'{BRIDGE}-{name}').split()]

    def end(self, name):
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        link = BRIDGE + self.names[name].rpartition('.')[2]  # a socket that lingers may keep the namespace, and with it
        for gone in (['ip', 'link', 'delete', link], ['ip', 'netns', 'delete', f'{BRIDGE}-{name}']):
            subprocess.run(gone, check=False, stderr=subprocess.DEVNULL)

    def cut(self, name):
        """Take a node off the network, and end all that runs on it."""
        run('ip', '-n', f'{BRIDGE}-{name}', 'link', 'set', 'eth0', 'down')
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def slow(self, rate):
        subprocess.run(['tc', 'qdisc', 'delete', 'dev', BRIDGE, 'root'], check=False, stderr=subprocess.DEVNULL)
        if rate:
            run('tc', 'qdisc', 'add', 'dev', BRIDGE, 'root', 'tbf', 'rate', rate, 'burst', '64kb', 'latency', '300ms')

    @staticmethod
    def sent():
        """Return how many bytes the controller has sent over the link, with all that TCP and ssh add."""
        return int(Path(f'/sys/class/net/{BRIDGE}/statistics/tx_bytes').read_text())


class Fleet:
    def __init__(self, network, scratch, options):
        self.network, self.scratch, self.rounds, self.results = network, scratch, options.rounds, {}
        self.nodes = scratch / 'nodes'

    def release(self, *archs, size=SIZE):
        """Make an artifact directory with one binary of *size* for each arch, the first of which is this machine's."""
        folder = self.scratch / 'airgap'
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for arch in archs:
            body = b'v1.31.4+k3s1' + os.urandom(size)
            content = support.program(body=body) if arch == support.NATIVE else support.elf(arch, body)
            (folder / support.BINARIES[arch]).write_bytes(content)
        return folder

    def stage(self, names, *arguments, machines=(), **variables):
        """Stage nodes from nothing; return (seconds, bytes over the link, what is left on the nodes, the run)."""
        shutil.rmtree(self.nodes, ignore_errors=True)
        hosts = {}
        for number, name in enumerate(names):
            (self.nodes / name / 'bin').mkdir(parents=True)
            told = {'k3s_artifact_machine': machines[number % len(machines)],
                    'k3s_artifact_probe': False} if machines else {}
            hosts[name] = {
                'ansible_connection': 'ssh', 'ansible_host': self.network.names[name], 'ansible_user': 'root',
                'ansible_ssh_private_key_file': str(self.network.folder / 'key'),
                'ansible_ssh_common_args': '-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null '
                                           '-o LogLevel=ERROR',
                'k3s_artifact_become': False, 'k3s_artifact_dir': str(self.scratch / 'airgap'),
                'k3s_artifact_dest': str(self.nodes / name / 'bin' / 'k3s'),
                'k3s_artifact_data_dir': str(self.nodes / name / 'data'),
                'k3s_artifact_relay_dir': str(self.nodes / name / 'relay'), **told, **variables}
        before = {name: set(self.network.processes(name)) for name in names}
        inventory = support.write_inventory(self.scratch / 'inventory.json', hosts)
        env = {'ANSIBLE_PIPELINING': 'true', 'ANSIBLE_SSH_CONTROL_PATH_DIR': str(self.network.folder)}
        sent, began = self.network.sent(), time.monotonic()
        done = support.play(self.scratch, 'airgap.k3s.stage', '-e', 'k3s_artifact_hosts=all', '--forks', '20',
                            *arguments, hosts=inventory, home='collection', timeout=1800, env=env)
        seconds, sent = time.monotonic() - began, self.network.sent() - sent
        left = [str(path) for name in names for path in self.nodes.glob(f'{name}/relay')]
        for name in names:
            for pid in set(self.network.processes(name)) - before[name]:
                with contextlib.suppress(OSError):
                    words = Path(f'/proc/{pid}/cmdline').read_bytes().replace(b'\0', b' ').decode()
                    left += [] if words.startswith('sshd') else [words]
        return seconds, sent, left, done

    def note(self, name, **values):
        self.results[name] = values
        print(name, json.dumps(values), flush=True)

    def site(self):
        """Ten nodes of one site against one node without."""
        self.release(support.NATIVE)
        self.network.slow(RATE)
        names, one, ten, bytes_, left = [f'n{number}' for number in range(10)], [], [], [], []
        for _round in range(self.rounds):
            seconds, _sent, _left, done = self.stage(names[:1])
            assert done.rc == 0, done.output
            one.append(seconds)
            seconds, sent, remains, done = self.stage(names, k3s_artifact_site='x')
            assert done.rc == 0, done.output
            ten.append(seconds)
            bytes_.append(sent / SIZE)
            left += remains
        ratio = statistics.median(ten) / statistics.median(one)
        self.note('ten nodes of one site behind 20 Mbit/s', one=[round(value, 1) for value in one],
                  ten=[round(value, 1) for value in ten], ratio=round(ratio, 2), aim=1.3,
                  copies=round(statistics.median(bytes_), 3), left=left)

    def architectures(self):
        """Bytes over the link for a site of three architectures, three nodes each."""
        archs = [support.NATIVE, *[arch for arch in ('amd64', 'arm64', 'arm') if arch != support.NATIVE]]
        size = 20 * MEGABYTE
        self.release(*archs, size=size)
        self.network.slow('')
        names = [f'n{number}' for number in range(9)]
        _seconds, sent, left, done = self.stage(names, machines=[support.MACHINES[arch] for arch in archs],
                                                k3s_artifact_site='x')
        assert done.rc == 0, done.output
        self.note('bytes over the link, of one copy for each of three architectures',
                  ratio=round(sent / (len(archs) * size), 3), aim=1.05, left=left)

    def mirror(self):
        """Bytes of the controller for twenty nodes with a mirror against those without."""
        self.release(support.NATIVE)
        self.network.slow('')
        address, folder = self.network.add('mirror'), self.network.folder
        temporary = ' '.join(f'{name}_temp_path {folder}/{name};'
                             for name in ('client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'))
        (folder / 'nginx.conf').write_text(NGINX.format(folder=folder, airgap=self.scratch / 'airgap', address=address,
                                                        temporary=temporary))
        self.network.start('mirror', 'nginx', '-c', folder / 'nginx.conf', '-e', folder / 'nginx.error')
        time.sleep(1)
        names = [f'n{number}' for number in range(20)]
        seconds, fetched, left, done = self.stage(names, k3s_artifact_url=f'http://{address}:8080')
        assert done.rc == 0 and done.output.count('fetched') == 20, done.output
        pushing, pushed, _left, done = self.stage(names)
        assert done.rc == 0, done.output
        self.note('twenty nodes and a mirror: bytes of the controller', fetched=fetched, pushed=pushed,
                  ratio=round(fetched / pushed, 4), aim=0.01, left=left, seconds=[round(seconds, 1), round(pushing, 1)])

    def killed(self):
        """The relay dies when it has half of the file."""
        self.release(support.NATIVE)
        self.network.slow(RATE)
        names, begin, over = [f'n{number}' for number in range(10)], self.network.sent(), threading.Event()

        def kill():
            while not over.wait(0.1):
                if self.network.sent() - begin > SIZE / 2:
                    self.network.cut(names[0])
                    return
        killer = threading.Thread(target=kill)
        killer.start()
        seconds, sent, left, done = self.stage(names, '-e', 'k3s_artifact_keep_going=true', '--timeout', '15',
                                               k3s_artifact_site='x')
        over.set()
        killer.join()
        whole = [name for name in names if (self.nodes / name / 'bin' / 'k3s').exists()]
        assert whole == names[1:], done.output
        left = [each for each in left if f'/{names[0]}/' not in each]  # it is off
        self.note('relay killed at half: bytes over the link, of one copy', ratio=round(sent / SIZE, 3), aim=2,
                  seconds=round(seconds, 1), left=left)


ROWS = ('site', 'architectures', 'mirror', 'killed')  # the last one takes a node away


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', default=','.join(ROWS))
    parser.add_argument('--rounds', type=int, default=3)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory(dir='/var/tmp') as scratch, tempfile.TemporaryDirectory(prefix='k3s-') as short, \
            Network(Path(short)) as network:
        for number in range(20):
            network.node(f'n{number}')
        time.sleep(1)
        fleet = Fleet(network, Path(scratch), options)
        for row in options.rows.split(','):
            getattr(fleet, row)()
    known = json.loads(RESULTS.read_text())['rows'] if RESULTS.exists() else {}
    known.update({name: {**values, 'load at the start': load} for name, values in fleet.results.items()})
    RESULTS.write_text(json.dumps({'rows': known}, indent=1) + '\n')


if __name__ == '__main__':
    main()
