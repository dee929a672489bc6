# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure staging against Ansible's copy, scp and an older commit, on the nodes of the lab (root, Debian).

    bench.py                               everything: about an hour
    bench.py --rows first,nothing,facts    what most users feel: about 12 minutes
    bench.py --quick                       two nodes, two rounds, a small file: only to see that all of it runs
    bench.py --against COMMIT              the older commit; an empty word leaves it out

The methods of a row take turns, forwards and backwards, so that whatever else the machine does falls on all of them.
bench.json keeps every value and the medians; a run replaces the tables that it measured, and docs/speed.md is written
from all of them. Nodes, controller and network are one machine: this measures work, not a network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'tests' / 'integration' / 'lab'), str(ROOT / 'tests'), str(ROOT / 'benchmarks')]

import support  # noqa: E402
import tables  # noqa: E402
from lab import Lab  # noqa: E402
from lab_install import install  # noqa: E402
from tables import CORE, COUNTS, FACTS, NEW, OLD, RAW, RESUMED, SCP, UNCOMPRESSED  # noqa: E402

AGAINST = '24da42d'
# Row: the nodes that it needs from the start. Those of amd64 are started as they are asked for.
ROWS = {'first': '', 'nothing': '', 'facts': '', 'images': 'arm64,armhf', 'safety': '', 'memory': '', 'scale': '',
        'resolve': '', 'slow': 'slow', 'fleet': ''}
QUICK = ('first', 'nothing')

BINARY = 65_000_000  # bytes, about that of K3s 1.31
ARCHIVE = 150_000_000
BIG_ARCHIVE = 200_000_000
INSTALLED = '/usr/local/bin/k3s'
IMAGES = '/var/lib/rancher/k3s/agent/images'
PLAIN_SSH = {'ANSIBLE_SSH_ARGS': '-o ControlMaster=auto -o ControlPersist=60s'}
FLEETS = (150, 300)  # pretend hosts

# What a node does more than it would without a safety. It prints microseconds.
SAFETIES = r'''
cd /usr/local/bin || exit 1
took() {
    label=$1; shift; a=$(date +%s%N)
    "$@" >/dev/null 2>&1 || exit 1
    b=$(date +%s%N); echo "$label=$(( (b - a) / 1000 ))"
}
hundred() { i=0; while [ $i -lt 100 ]; do "$@" || return 1; i=$((i + 1)); done; }
took 'uname -m, 100 times' hundred uname -m
took 'k3s --version' ./k3s --version
sync
took 'write 65 MB' dd if=k3s of=written bs=65536
rm -f written; sync
took 'write 65 MB, fsync' dd if=k3s of=written bs=65536 conv=fsync
mv -f written renamed
took 'sync of the folder' sync .
rm -f renamed
'''


class Ran(NamedTuple):
    """What a run took; *cpu* are seconds of processor time of all its processes on the controller."""

    seconds: float
    cpu: float


class Bench:
    """The lab's nodes, a release, and the ways to run a method on them."""

    def __init__(self, lab, scratch, options):
        self.lab, self.scratch, self.rounds, self.count = lab, Path(scratch), options.rounds, 2 if options.quick else 10
        self.tables, self.run = {}, machine(options)
        self.homes = {NEW: place(self.scratch / 'new')}
        if options.against:
            self.homes = {OLD: place(self.scratch / 'old', options.against), **self.homes}
        self.versions = tuple(self.homes)
        if 'safety' in options.rows:
            self.homes['without'] = without_sync(place(self.scratch / 'without'))
        self.airgap = self.scratch / 'airgap'
        names = ('amd64',) if options.quick else ('amd64', 'arm64', 'arm')
        lab.release(self.airgap, size=BINARY // 10 if options.quick else BINARY, images_size=1_000_000, arches=names)
        self.source = self.airgap / 'amd64' / 'k3s'

    # --- running

    def ansible(self, inventory, play, version=NEW, facts=False, forks=None, env=None, arguments=(), changed=None):
        """Run a play with a connection that nobody used before and return what it took.

        inventory: a path, or nodes. play: a list of tasks, or the name of a playbook. version: whose plugins.
        changed: whether every host has to say that something changed, None for either.
        """
        home = Path(tempfile.mkdtemp(prefix='k3sb.'))
        folder = self.homes[version]
        if isinstance(play, list):
            (folder / 'play.json').write_text(json.dumps([{'hosts': 'all', 'gather_facts': facts, 'tasks': play}]))
            play = 'play.json'
        if not isinstance(inventory, Path):
            forks, inventory = forks or len(inventory), self.inventory(inventory)
        environment = {**support.environment(home), 'HOME': str(home), 'ANSIBLE_PIPELINING': '1',
                       'ANSIBLE_FORKS': str(forks), **(env or {}),
                       'ANSIBLE_COLLECTIONS_PATH': f'{folder}/collections:{ROOT}/build/bench'}
        command = [str(support.PROGRAMS / 'ansible-playbook'), '-i', str(inventory), play, *arguments]
        began, cpu = time.monotonic(), children()
        done = subprocess.run(command, cwd=folder, env=environment, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        ran = Ran(time.monotonic() - began, children() - cpu)
        for socket in (path for path in home.rglob('*') if path.is_socket()):
            subprocess.run(['ssh', '-O', 'exit', '-S', str(socket), 'node'], capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)
        if done.returncode:
            raise SystemExit(f'{version}, {play}: {done.stdout[-3000:]}')
        if changed is not None and {count != '0' for count in re.findall(r' changed=(\d+) ', done.stdout)} != {changed}:
            raise SystemExit(f'{version}, {play}: not every host says changed={changed}: {done.stdout[-3000:]}')
        return ran

    def inventory(self, nodes, name='inventory.json'):
        """Write an inventory of *nodes*, in which their machine is known as it is once facts were gathered."""
        path = self.lab.inventory(self.scratch / name, nodes)
        content = json.loads(path.read_text())
        for node in nodes:
            content['all']['hosts'][node.name]['ansible_architecture'] = node.machine
        path.write_text(json.dumps(content))
        return path

    def scp(self, nodes, dest=INSTALLED):
        """Copy the binary to all *nodes* at once with scp."""
        words = ['scp', '-q', '-i', str(self.lab.key_file), '-o', 'StrictHostKeyChecking=no',
                 '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR']
        began, cpu = time.monotonic(), children()
        running = [subprocess.Popen([*words, '-P', str(node.port), str(self.source), f'root@{node.host}:{dest}'])
                   for node in nodes]
        statuses = [process.wait() for process in running]  # of all, also after one that failed
        if any(statuses):
            raise SystemExit('scp failed')
        return Ran(time.monotonic() - began, children() - cpu)

    def copies(self, inventory, source=None, dest=INSTALLED, loop=None, changed=True, **how):
        """Return the methods that every row has: ansible-core's copy, and each version of ours."""
        def method(module, version):
            owned = {'owner': 'root', 'group': 'root', 'mode': '0755'}
            task = {module: {'src': str(source or self.source), 'dest': dest, **owned}, **(loop or {})}
            return lambda: self.ansible(inventory, [task], version, changed=changed, **how)
        return {CORE: method(CORE, NEW), **{version: method('copy', version) for version in self.versions}}

    def interleaved(self, table, methods, before=None, unit='seconds', most=None):
        """Run each of *methods* (name -> function that returns a :class:`Ran`) in turn, round after round."""
        values = {name: [] for name in methods}
        rounds = min(self.rounds, most or self.rounds)
        for number in range(rounds):
            for name in list(methods)[::-1 if number % 2 else 1]:
                if before:
                    before()
                ran = methods[name]()
                values[name].append(round(ran.cpu if unit == 'CPU seconds' else ran.seconds, 3))
                print(f'{table}, round {number + 1} of {rounds}: {name} {values[name][-1]:.2f} {unit}', flush=True)
        self.keep(table, values, unit)

    def keep(self, table, values, unit, **more):
        self.tables[table] = {'unit': unit, 'run': self.run, **more, 'methods': {
            name: {'values': each, 'median': round(statistics.median(each), 3)} for name, each in values.items()}}

    # --- nodes

    def amd64(self, count=None):
        """Return *count* amd64 nodes of the lab, starting what is missing."""
        count = count or self.count
        present = [node for node in self.lab.nodes.values() if node.kind == 'amd64']
        if len(present) < count:
            present += self.lab.add(f'amd64*{count - len(present)}')
        return present[:count]

    @staticmethod
    def emptied(nodes, *folders):
        """Return a function that makes all *nodes* as new, with these folders."""
        def empty():
            for node in nodes:
                node.reset()
                for folder in ('/usr/local/bin', *folders):
                    node.path(folder).mkdir(parents=True, exist_ok=True)
        return empty

    # --- rows

    def first(self):
        """First staging, in a play that gathers no facts."""
        nodes = self.amd64()
        self.interleaved('first staging', {
            **self.copies(nodes), UNCOMPRESSED: self.copies(nodes, env=PLAIN_SSH)[CORE], SCP: lambda: self.scp(nodes),
        }, self.emptied(nodes))

    def nothing(self):
        """Everything is there already, in a play that gathers no facts."""
        nodes = self.staged()
        raw = {RAW: lambda: self.ansible(nodes, [{'ansible.builtin.raw': 'true'}])}
        self.interleaved('nothing to do', {**self.copies(nodes, changed=False), **raw})

    def staged(self):
        nodes = self.amd64()
        self.emptied(nodes)()
        self.copies(nodes)[NEW]()
        return nodes

    def facts(self):
        """Both in a play that gathers facts, as users have it, beside one that only gathers them."""
        nodes = self.amd64()
        only = {FACTS: lambda: self.ansible(nodes, [], facts=True)}
        self.interleaved('first staging, with facts', {
            **only, **self.copies(nodes, facts=True), SCP: lambda: self.scp(nodes)}, self.emptied(nodes))
        self.staged()
        self.interleaved('nothing to do, with facts', {**only, **self.copies(nodes, facts=True, changed=False)})

    def images(self):
        """Image archives of three architectures, in the shape of k3s-ansible's task."""
        nodes = [*self.amd64(1), self.lab.nodes['arm64'], self.lab.nodes['armhf']]
        shared = self.scratch / 'shared'
        shared.mkdir()
        for arch in ('amd64', 'arm64', 'arm'):
            write_images(shared / f'k3s-airgap-images-{arch}.tar.zst', arch, ARCHIVE)
        sent = {}

        def counted(name, method):
            def run():
                start = loopback_bytes()
                ran = method()
                sent.setdefault(name, []).append(loopback_bytes() - start)
                return ran
            return run
        methods = self.copies(nodes, '{{ item }}', IMAGES + '/{{ item | basename }}',
                              {'with_fileglob': [f'{shared}/*.tar.gz', f'{shared}/*.tar.zst', f'{shared}/*.tar']})
        methods = {name: counted(name, method) for name, method in methods.items()}
        self.interleaved('image archives', methods, self.emptied(nodes, IMAGES))
        self.tables['image archives'].update(bytes=sent, needed=len(nodes) * ARCHIVE)

    def safety(self):
        """What it costs that the data is on the disk, and what each safety costs on one node that does nothing else."""
        nodes = self.amd64()
        task = {'copy': {'src': str(self.source), 'dest': INSTALLED}}
        self.interleaved('data on the disk', {
            'without': lambda: self.ansible(nodes, [task], 'without', changed=True),
            NEW: lambda: self.ansible(nodes, [task], NEW, changed=True)}, self.emptied(nodes))
        self.staged()
        values = {}
        for _round in range(self.rounds):
            for line in nodes[0].run(SAFETIES).stdout.splitlines():
                name, microseconds = line.split('=')
                values.setdefault(name, []).append(int(microseconds) / 1000)
        self.keep('cost of a safety on a node', values, 'milliseconds')

    def resolve(self):
        """The lookup for a thousand hosts, in one template, beside the same template without it."""
        machines = list(support.MACHINES.values())[:3]
        inventory = support.write_inventory(self.scratch / 'thousand.json', {
            f'n{number}': {'k3s_artifact_machine': machines[number % 3]} for number in range(1000)})
        how = {'forks': 1, 'env': {'K3S_ARTIFACT_DIR': str(self.airgap)}, 'arguments': ['--limit', 'n0']}

        def run(expression, version=NEW):
            text = "{% for host in groups['all'] %}{% set machine = hostvars[host].k3s_artifact_machine %}"
            text += expression + '{% endfor %}'
            return lambda: self.ansible(inventory, [{'ansible.builtin.debug': {'msg': text}}], version, **how)
        self.interleaved('resolve 1,000 hosts', {
            'without the lookup': run('{{ machine }}'),
            **{version: run("{{ lookup('k3s_artifact', machine=machine) }}", version) for version in self.versions}})

    def memory(self):
        """Private memory of the largest of 50 worker processes, each sending a 200 MB archive."""
        nodes = self.amd64(5)
        archive = self.scratch / 'big' / 'custom-amd64.tar.zst'
        archive.parent.mkdir()
        write_images(archive, 'amd64', BIG_ARCHIVE)
        path = self.inventory(nodes, 'fifty.json')
        inventory = json.loads(path.read_text())
        known = list(inventory['all']['hosts'].values())
        inventory['all']['hosts'] = {f'n{number}': {**known[number % 5], 'number': number} for number in range(50)}
        path.write_text(json.dumps(inventory))
        empty = self.emptied(nodes, *(f'/srv/{number}/agent/images' for number in range(50)))
        dest, largest = '/srv/{{ number }}/agent/images/custom-amd64.tar.zst', {}
        for name, method in self.copies(path, archive, dest, forks=50, env=PLAIN_SSH).items():
            empty()
            with Watch() as watch:
                method()
            largest[name] = [watch.largest / 1e6]
            print(f'memory: {name} {watch.largest / 1e6:.1f} MB', flush=True)
        empty()
        self.keep('memory of a fork', largest, 'MB')

    def slow(self):
        """One node behind 20 Mbit/s: first staging, and again after the line dropped at 90 %."""
        node = next(node for node in self.lab.nodes.values() if node.kind == 'slow')
        methods = self.copies([node])

        def resumed(method):
            def run():
                ended = threading.Event()

                def drop():
                    while not ended.wait(0.1):
                        sizes = [size_of(path) for path in node.path('/usr/local/bin').glob('.k3s-artifact.*')]
                        if sum(sizes) >= 0.9 * BINARY:
                            node.kill_connections()
                            return
                dropper = threading.Thread(target=drop)
                dropper.start()
                with contextlib.suppress(SystemExit):
                    method()
                ended.set()
                dropper.join()
                return method()
            return run
        again = {version + RESUMED: resumed(methods[version]) for version in self.versions}
        self.interleaved('20 Mbit/s', {**methods, **again, SCP: lambda: self.scp([node])}, self.emptied([node]), most=3)

    def scale(self):
        """Seconds against number of nodes, for the plot."""
        for count in COUNTS:
            nodes = self.amd64(count)
            ours = self.copies(nodes)
            synchronize = {'ansible.posix.synchronize': {'src': str(self.source), 'dest': INSTALLED, 'compress': False}}
            self.interleaved(f'{count} nodes', {
                CORE: ours[CORE], 'ansible.posix.synchronize': partial(self.ansible, nodes, [synchronize]),
                NEW: ours[NEW], SCP: partial(self.scp, nodes)}, self.emptied(nodes), most=3)

    def fleet(self):
        """Processor time of the playbooks for pretend hosts, folders of this machine, beside four empty tasks."""
        release, hosts = self.scratch / 'pretend', self.scratch / 'hosts'
        subprocess.run([sys.executable, ROOT / 'playbooks' / 'files' / 'pretend_release.py', release], check=True)
        methods = {}
        for count in FLEETS:
            variables = {f'n{number}': {
                'ansible_connection': 'local', 'ansible_python_interpreter': sys.executable,
                'k3s_artifact_become': False, 'k3s_artifact_probe': False,
                'k3s_artifact_machine': ('x86_64', 'aarch64', 'armv7l')[number % 3],
                'k3s_artifact_dir': str(release), 'k3s_artifact_dest': f'{hosts}/n{number}/bin/k3s',
                'k3s_artifact_images_dest': f'{hosts}/n{number}/k3s/agent/images'} for number in range(count)}
            inventory = self.scratch / f'fleet{count}.json'
            inventory.write_text(json.dumps({'k3s_cluster': {'hosts': variables}}))

            def run(play, version=NEW, inventory=inventory):
                return lambda: self.ansible(inventory, play, version, forks=10)
            methods[f'{RAW} four times, {count}'] = run([{'ansible.builtin.raw': 'true'}] * 4)
            if OLD in self.versions and count == FLEETS[0]:
                methods[f'preflight before, {count}'] = run('airgap.k3s.preflight', OLD)
            methods[f'preflight, {count}'] = run('airgap.k3s.preflight')
            methods[f'stage, {count}'] = run('airgap.k3s.stage')

        def empty():
            shutil.rmtree(hosts, ignore_errors=True)
            for number in range(max(FLEETS)):
                (hosts / f'n{number}' / 'bin').mkdir(parents=True)
                (hosts / f'n{number}' / 'k3s' / 'agent' / 'images').mkdir(parents=True)
        self.interleaved('pretend hosts', methods, empty, 'CPU seconds', most=3)


class Watch:
    """The largest private memory that any worker of ansible-playbook had, in bytes."""

    def __enter__(self):
        self.largest, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.2):
            for path in Path('/proc').glob('[0-9]*'):
                with contextlib.suppress(OSError):
                    if b'ansible-playbook' in (path / 'cmdline').read_bytes():
                        text = (path / 'smaps_rollup').read_text()
                        private = sum(int(kib) for kib in re.findall(r'^Private_\w+:\s+(\d+) kB', text, re.MULTILINE))
                        parent = re.search(r'^PPid:\s+(\d+)', (path / 'status').read_text(), re.MULTILINE).group(1)
                        if b'ansible-playbook' in Path(f'/proc/{parent}/cmdline').read_bytes():
                            self.largest = max(self.largest, private * 1024)


def children():
    """Return the processor time, in seconds, of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def loopback_bytes():
    """Return how many bytes have crossed the loopback interface, with all that TCP and ssh add."""
    return int(Path('/sys/class/net/lo/statistics/tx_bytes').read_text())


def size_of(path):
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def place(folder, commit=None):
    """Put what users install, from *commit* or the working tree, below *folder*: two loose files, and a collection."""
    collection = folder / 'collections' / 'ansible_collections' / 'airgap' / 'k3s'
    collection.mkdir(parents=True)
    parts = ('plugins', 'playbooks', 'meta', 'galaxy.yml')
    pack = ['git', 'archive', commit, *parts] if commit else ['tar', '-c', *parts]
    packed = subprocess.run(pack, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(['tar', '-x'], cwd=collection, input=packed, check=True)
    for kind, name in (('action', 'copy.py'), ('lookup', 'k3s_artifact.py')):
        (folder / f'{kind}_plugins').mkdir()
        shutil.copy(collection / 'plugins' / kind / name, folder / f'{kind}_plugins')
    return folder


def without_sync(folder):
    """Take out of a placed plugin what brings data onto the disk."""
    path = folder / 'action_plugins' / 'copy.py'
    text, of_data = re.subn(r' conv=fsync|,fsync', '', path.read_text())
    text, of_rename = re.subn(r'^( *)sync .*$', r'\1:', text, flags=re.MULTILINE)
    if not of_data or not of_rename:
        raise SystemExit('copy.py has no fsync or no sync any more: see without_sync, or leave out the row safety')
    path.write_text(text)
    return folder


def write_images(path, arch, size):
    """Write an archive of one image for *arch*, with *size* bytes that cannot be compressed."""
    with tarfile.open(path.with_suffix(''), 'w') as tar:
        manifest = [{'Config': 'config.json', 'RepoTags': ['bench:1'], 'Layers': ['layer.tar']}]
        for name, data in (('manifest.json', json.dumps(manifest).encode()),
                           ('config.json', json.dumps({'architecture': arch, 'os': 'linux'}).encode()),
                           ('layer.tar', os.urandom(size))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    subprocess.run(['zstd', '--quiet', '--rm', path.with_suffix(''), '-o', path], check=True)


def prepare_scale():
    """Install what draws the plot, and the collection ansible.posix, which the package `ansible` carries."""
    target = ROOT / 'build' / 'bench'
    posix = Path('ansible_collections') / 'ansible' / 'posix'
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet']
    subprocess.run([*pip, 'matplotlib'], check=True)
    if not (target / posix).exists():
        print('fetching the collection ansible.posix, once', flush=True)
        subprocess.run([*pip, '--no-deps', '--target', str(target / 'pip'), 'ansible'], check=True)
        (target / posix).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(target / 'pip' / posix, target / posix)
        shutil.rmtree(target / 'pip')


def machine(options):
    """Return what a reader has to know of this run."""
    def said(*command, **how):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **how)
    dirty = ' and changes' if said('git', 'status', '--porcelain', '--', 'plugins', 'playbooks').stdout else ''
    core = support.ansible('ansible', '--version', folder=tempfile.mkdtemp()).stdout.splitlines()[0]
    return {'commit': said('git', 'rev-parse', '--short', 'HEAD').stdout.strip() + dirty,
            'before': options.against or 'none', 'rounds': options.rounds,
            'ansible-core': re.sub(r'^ansible \[core (.*)\]$', r'\1', core), 'python': platform.python_version(),
            'ssh': said('ssh', '-V').stderr.strip(), 'kernel': platform.release(),
            'cores': os.cpu_count(), 'load at the start': round(os.getloadavg()[0], 1)}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', help=f'of {",".join(ROWS)}; by default all')
    parser.add_argument('--rounds', type=int, help='by default 5; at most 3 for slow, scale and fleet')
    parser.add_argument('--against', metavar='COMMIT', help=f'by default {AGAINST} where it exists')
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--output', type=Path, metavar='DIRECTORY',
                        help='for bench.json; by default where the documentation finds it')
    options = parser.parse_args()
    options.rows = options.rows.split(',') if options.rows else list(QUICK if options.quick else ROWS)
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        parser.error(f'there is no row {", ".join(sorted(unknown))}')
    if options.quick and set(options.rows) & {'images', 'slow', 'resolve'}:
        parser.error('images, slow and resolve need the whole release and have no quick form')
    if set(options.rows) & {'images', 'memory'} and not shutil.which('zstd'):
        parser.error('images and memory need the program zstd, which packs their archives')
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.output = options.output or (ROOT / 'build' / 'bench' if options.quick else tables.RESULTS.parent)
    if options.against != '':
        wanted = options.against or AGAINST
        there = not subprocess.run(['git', 'cat-file', '-e', wanted + '^{commit}'], cwd=ROOT, stderr=subprocess.DEVNULL,
                                   check=False).returncode
        if not there and options.against:
            parser.error(f'there is no commit {options.against}')
        if not there:
            print(f'There is no commit {AGAINST} here: nothing is measured against it.', flush=True)
        options.against = wanted if there else ''
    return options


def main():
    options = arguments()
    if os.getloadavg()[0] > 0.5:
        print('The machine is not idle: these figures are for trying only.', flush=True)
    install()
    if 'scale' in options.rows:
        prepare_scale()
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / 'bench.json'
    known = {} if options.quick else tables.read(results)
    failed = []
    nodes = ','.join(['amd64', *filter(None, (ROWS[row] for row in options.rows))])
    with Lab.up(nodes) as lab, tempfile.TemporaryDirectory(dir='/var/tmp') as scratch:
        bench = Bench(lab, scratch, options)
        for row in options.rows:
            began = time.monotonic()
            try:
                getattr(bench, row)()
            except SystemExit as error:  # the other rows still count
                failed.append(row)
                print(f'row {row} failed: {error}', flush=True)
                continue
            print(f'row {row} took {(time.monotonic() - began) / 60:.1f} minutes\n', flush=True)
            known.update(bench.tables)
            results.write_text(json.dumps({'tables': known}, indent=1) + '\n')
            if results == tables.RESULTS:
                tables.write_document(known)
    if results == tables.RESULTS and 'scale' in options.rows and 'scale' not in failed:
        tables.plot(known, ROOT / 'docs' / 'speed.png')
    for name, table in bench.tables.items():
        print(f'\n{name}, {table["unit"]}')
        print('\n'.join(f'   {method:<50} {values["median"]:>8}' for method, values in table['methods'].items()))
    print('', *tables.printed(tables.figures(bench.tables)), sep='\n')
    sys.exit(f'These rows failed: {", ".join(failed)}' if failed else 0)


if __name__ == '__main__':
    main()
