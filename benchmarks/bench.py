# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure staging against Ansible's copy, synchronize and scp, on the nodes of the lab (root, Debian).

    bench.py [--rounds N] [--only TABLE,...] [--output DIRECTORY] [--plot FILE]

The methods of a table run in turn, round after round, so that whatever else the machine does falls on all of them. What is
printed and written to bench.json are the seconds of each run, their medians, and ratios of medians of this one run.
Nodes, controller and network are one machine: this measures work, not a network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'tests' / 'integration' / 'lab'), str(ROOT / 'tests')]

import support  # noqa: E402
from lab import Lab  # noqa: E402
from lab_install import install  # noqa: E402

BINARY = 65_000_000  # bytes, about that of K3s 1.31
ARCHIVE = 150_000_000
BIG_ARCHIVE = 200_000_000
IMAGES = '/var/lib/rancher/k3s/agent/images'
COUNTS = (1, 2, 5, 10, 20)


class Bench:
    """The lab's nodes, a release, and the ways to run a method on them."""

    def __init__(self, lab, scratch, rounds):
        self.lab, self.scratch, self.rounds = lab, Path(scratch), rounds
        self.results = {}
        support.install_drop_in(self.scratch)

    # --- running

    def ansible(self, nodes, task, forks=None, env=None, hosts=None, arguments=()):
        """Run one task on *nodes* with a connection that nobody used before; return seconds and output."""
        home = Path(tempfile.mkdtemp(prefix='k3sb.'))
        play = [{'hosts': 'all', 'gather_facts': False, 'tasks': [task]}]
        (self.scratch / 'play.json').write_text(json.dumps(play))
        inventory = hosts or self.inventory(nodes)
        environment = {**support.environment(home), 'ANSIBLE_PIPELINING': '1', 'ANSIBLE_FORKS': str(forks or len(nodes)),
                       'ANSIBLE_COLLECTIONS_PATH': str(ROOT / 'build' / 'bench'), 'HOME': str(home), **(env or {})}
        command = [str(support.PROGRAMS / 'ansible-playbook'), '-i', str(inventory), 'play.json', *arguments]
        began = time.monotonic()
        done = subprocess.run(command, cwd=self.scratch, env=environment, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        took = time.monotonic() - began
        subprocess.run(['pkill', '-f', str(home)], check=False)
        shutil.rmtree(home, ignore_errors=True)
        if done.returncode:
            raise SystemExit(f'{task}: {done.stdout[-3000:]}')
        return took, done.stdout

    def inventory(self, nodes, name='inventory.json'):
        """Write an inventory of *nodes*. Their machine is known, as it is after the facts that every K3s playbook gathers."""
        path = self.lab.inventory(self.scratch / name, nodes)
        content = json.loads(path.read_text())
        for node in nodes:
            content['all']['hosts'][node.name]['ansible_architecture'] = node.machine
        path.write_text(json.dumps(content))
        return path

    def scp(self, nodes, source, dest):
        """Copy *source* to all *nodes* at once with scp; return seconds."""
        began = time.monotonic()
        running = [subprocess.Popen(['scp', '-q', '-i', str(self.lab.key_file), '-P', str(node.port), '-o', 'StrictHostKeyChecking=no',
                                     '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR', str(source), f'root@{node.host}:{dest}'])
                   for node in nodes]
        if any(process.wait() for process in running):
            raise SystemExit('scp failed')
        return time.monotonic() - began

    def interleaved(self, table, methods, before=None):
        """Run each of *methods* (name -> function that returns seconds) in turn, *rounds* times."""
        times = {name: [] for name in methods}
        for number in range(self.rounds):
            for name, method in methods.items():
                if before:
                    before(name)
                times[name].append(round(method(), 3))
                print(f'{table}, round {number + 1} of {self.rounds}: {name} {times[name][-1]:.2f} s', flush=True)
        self.results[table] = {name: {'seconds': values, 'median': statistics.median(values)} for name, values in times.items()}
        return self.results[table]

    def ratio(self, table, name, over):
        return self.results[table][name]['median'] / self.results[table][over]['median']

    # --- tasks

    @staticmethod
    def copy(module, source, dest='/usr/local/bin/k3s'):
        return {module: {'src': str(source), 'dest': dest, 'owner': 'root', 'group': 'root', 'mode': '0755'}}

    def reset(self, nodes):
        for node in nodes:
            node.reset()
            node.path('/usr/local/bin').mkdir(parents=True, exist_ok=True)

    # --- tables

    def first(self, airgap):
        """First staging and nothing to do, ten nodes."""
        nodes = amd64(self.lab, 10)
        source = airgap / 'amd64' / 'k3s'
        methods = {
            'ansible.builtin.copy': lambda: self.ansible(nodes, self.copy('ansible.builtin.copy', source))[0],
            'ansible.builtin.copy without -C': lambda: self.ansible(
                nodes, self.copy('ansible.builtin.copy', source), env={'ANSIBLE_SSH_ARGS': '-o ControlMaster=auto -o ControlPersist=60s'})[0],
            'k3s_artifact': lambda: self.ansible(nodes, self.copy('copy', source))[0],
            'scp': lambda: self.scp(nodes, source, '/usr/local/bin/k3s'),
        }
        self.interleaved('first staging', methods, before=lambda _name: self.reset(nodes))
        self.ansible(nodes, self.copy('copy', source))
        self.interleaved('nothing to do', {
            **{name: methods[name] for name in list(methods)[:3]},
            'raw: true': lambda: self.ansible(nodes, {'ansible.builtin.raw': 'true'})[0],
        })

    def images(self, airgap):
        """Image archives of three architectures, in the shape of k3s-ansible's task."""
        nodes = [self.lab.nodes[name] for name in ('amd64', 'arm64', 'armhf')]
        shared = self.scratch / 'shared'
        shared.mkdir(exist_ok=True)
        for path in airgap.glob('*/*.tar.zst'):
            if not (shared / path.name).exists():
                os.link(path, shared / path.name)
        def task(module):
            return {**self.copy(module, '{{ item }}', IMAGES + '/{{ item | basename }}'),
                    'with_fileglob': [f'{shared}/*.tar.gz', f'{shared}/*.tar.zst', f'{shared}/*.tar']}
        def before(_name):
            for node in nodes:
                node.reset()
                node.path(IMAGES).mkdir(parents=True, exist_ok=True)
        sent = {'ansible.builtin.copy': [], 'k3s_artifact': []}
        def counted(name, module):
            start = loopback_bytes()
            took = self.ansible(nodes, task(module))[0]
            sent[name].append(loopback_bytes() - start)
            return took
        table = self.interleaved('image archives', {
            'ansible.builtin.copy': lambda: counted('ansible.builtin.copy', 'ansible.builtin.copy'),
            'k3s_artifact': lambda: counted('k3s_artifact', 'copy'),
        }, before=before)
        for name, values in sent.items():
            table[name].update(bytes=values, needed=len(nodes) * ARCHIVE)

    def resolve(self, airgap):
        """The lookup for a thousand hosts, in one template, above the same template without it."""
        machines = list(support.MACHINES.values())[:3]
        hosts = {f'n{number}': {'k3s_artifact_machine': machines[number % 3], 'ansible_connection': 'local'} for number in range(1000)}
        inventory = self.scratch / 'thousand.json'
        inventory.write_text(json.dumps({'all': {'hosts': hosts}}))
        def run(expression):
            text = "{% for host in groups['all'] %}{% set machine = hostvars[host].k3s_artifact_machine %}" + expression + '{% endfor %}'
            return self.ansible([], {'ansible.builtin.debug': {'msg': text}, 'run_once': True}, forks=1, hosts=inventory,
                                env={'K3S_ARTIFACT_DIR': str(airgap)}, arguments=['--limit', 'n0'])[0]
        self.interleaved('resolve 1,000 hosts', {
            'without the lookup': lambda: run('{{ machine }}'),
            'with the lookup': lambda: run("{{ lookup('k3s_artifact', machine=machine) }}"),
        })

    def memory(self, airgap):
        """Private memory of the largest of 50 worker processes, each sending a 200 MB archive."""
        nodes = amd64(self.lab, 5)
        archive = self.scratch / 'big' / 'custom-amd64.tar.zst'
        archive.parent.mkdir(exist_ok=True)
        with archive.open('wb') as file:
            for _ in range(BIG_ARCHIVE // 1_000_000):
                file.write(os.urandom(1_000_000))
        inventory = json.loads(self.inventory(nodes, 'fifty.json').read_text())
        known = inventory['all']['hosts']
        inventory['all']['hosts'] = {f'n{number}': {**list(known.values())[number % len(known)], 'number': number} for number in range(50)}
        (self.scratch / 'fifty.json').write_text(json.dumps(inventory))
        result = {}
        for module in ('ansible.builtin.copy', 'copy'):
            self.reset(nodes)
            for node in nodes:
                for number in range(50):
                    node.path(f'/srv/{number}/agent/images').mkdir(parents=True)
            with Watch() as watch:
                self.ansible(nodes, self.copy(module, archive, '/srv/{{ number }}/agent/images/custom-amd64.tar.zst'), forks=50,
                             hosts=self.scratch / 'fifty.json', env={'ANSIBLE_SSH_ARGS': '-o ControlMaster=auto -o ControlPersist=60s'})
            result['k3s_artifact' if module == 'copy' else module] = watch.largest
            print(f'memory: {module} {watch.largest / 1e6:.1f} MB', flush=True)
        self.reset(nodes)
        self.results['memory of a fork'] = {name: {'bytes': value} for name, value in result.items()}

    def slow(self, airgap):
        """One node behind 20 Mbit/s: first staging, and again after the line dropped at 90 %."""
        node = next(node for node in self.lab.nodes.values() if node.kind == 'slow')
        source = airgap / 'amd64' / 'k3s'
        def resumed():
            directory = node.path('/usr/local/bin')
            def drop():
                while sum(path.stat().st_size for path in directory.glob('.k3s-artifact.*')) < 0.9 * BINARY:
                    time.sleep(0.1)
                node.kill_connections()
            dropper = threading.Thread(target=drop)
            dropper.start()
            with contextlib.suppress(SystemExit):
                self.ansible([node], self.copy('copy', source))
            dropper.join()
            return self.ansible([node], self.copy('copy', source))[0]
        rounds, self.rounds = self.rounds, min(self.rounds, 3)
        self.interleaved('20 Mbit/s', {
            'ansible.builtin.copy': lambda: self.ansible([node], self.copy('ansible.builtin.copy', source))[0],
            'k3s_artifact': lambda: self.ansible([node], self.copy('copy', source))[0],
            'k3s_artifact, next run after a drop at 90 %': resumed,
            'scp': lambda: self.scp([node], source, '/usr/local/bin/k3s'),
        }, before=lambda _name: self.reset([node]))
        self.rounds = rounds

    def scale(self, airgap):
        """Seconds against number of nodes, for the plot."""
        source = airgap / 'amd64' / 'k3s'
        rounds, self.rounds = self.rounds, min(self.rounds, 3)
        for count in COUNTS:
            nodes = amd64(self.lab, count)
            self.interleaved(f'{count} nodes', {
                'ansible.builtin.copy': lambda: self.ansible(nodes, self.copy('ansible.builtin.copy', source))[0],
                'ansible.posix.synchronize': lambda: self.ansible(nodes, {
                    'ansible.posix.synchronize': {'src': str(source), 'dest': '/usr/local/bin/k3s', 'compress': False}})[0],
                'k3s_artifact': lambda: self.ansible(nodes, self.copy('copy', source))[0],
                'scp': lambda: self.scp(nodes, source, '/usr/local/bin/k3s'),
            }, before=lambda _name: self.reset(nodes))
        self.rounds = rounds


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


def loopback_bytes():
    """Return how many bytes have crossed the loopback interface, with all that TCP and ssh add."""
    return int(Path('/sys/class/net/lo/statistics/tx_bytes').read_text())


def amd64(lab, count):
    """Return *count* amd64 nodes of the lab, starting what is missing."""
    present = [node for node in lab.nodes.values() if node.kind == 'amd64']
    if len(present) < count:
        present += lab.add(f'amd64*{count - len(present)}')
    return present[:count]


def prepare_scale():
    """Install what draws the plot, and put the collection ansible.posix where the runs find it: the package `ansible` carries it."""
    target = ROOT / 'build' / 'bench'
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', 'matplotlib'], check=True)
    if not (target / 'ansible_collections' / 'ansible' / 'posix').exists():
        print('fetching the collection ansible.posix, once', flush=True)
        subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', str(target / 'pip'), 'ansible'], check=True)
        (target / 'ansible_collections' / 'ansible').mkdir(parents=True, exist_ok=True)
        shutil.move(target / 'pip' / 'ansible_collections' / 'ansible' / 'posix', target / 'ansible_collections' / 'ansible' / 'posix')
        shutil.rmtree(target / 'pip')


def summary(bench):
    """Return the rows of the tables of the README: figure, measured, aim."""
    rows = []
    ours = 'k3s_artifact'
    def row(table, name, over, aim):
        if name in bench.results.get(table, {}) and over in bench.results[table]:
            rows.append((f'{table}{name[len(ours):]}, against {over}', round(bench.ratio(table, name, over), 2), aim))
    row('first staging', ours, 'ansible.builtin.copy', 0.30)
    row('first staging', ours, 'scp', 1.35)
    row('nothing to do', ours, 'ansible.builtin.copy', 0.40)
    row('nothing to do', ours, 'raw: true', 2.2)
    row('image archives', ours, 'ansible.builtin.copy', 0.20)
    table = bench.results.get('image archives')
    if table:
        for name, aim in ((ours, 1.02), ('ansible.builtin.copy', None)):
            rows.append((f'image archives, bytes sent by {name} against bytes needed',
                         round(statistics.median(table[name]['bytes']) / table[name]['needed'], 3), aim))
    row('20 Mbit/s', ours, 'ansible.builtin.copy', None)
    row('20 Mbit/s', ours, 'scp', None)
    row('20 Mbit/s', ours + ', next run after a drop at 90 %', 'scp', None)
    table = bench.results.get('resolve 1,000 hosts')
    if table:
        rows.append(('resolve and verify, milliseconds a host',
                     round(table['with the lookup']['median'] - table['without the lookup']['median'], 2), 3))
    table = bench.results.get('memory of a fork')
    if table:
        rows.append(('memory of a fork above copy, MB', round((table[ours]['bytes'] - table['ansible.builtin.copy']['bytes']) / 1e6, 1), 15))
    return rows


def plot(results, path):
    """Draw seconds against number of nodes for every method."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    counts = [count for count in COUNTS if f'{count} nodes' in results]
    for name in results[f'{counts[0]} nodes']:
        axes.plot(counts, [results[f'{count} nodes'][name]['median'] for count in counts], marker='o', label=name)
    axes.set(xlabel='nodes (all on one machine with two cores)', ylabel='seconds', title='First staging of a 65 MB binary', xticks=counts, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def facts():
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    core = support.ansible('ansible', '--version', folder=tempfile.mkdtemp()).stdout.splitlines()[0]
    return {'commit': commit, 'ansible': core, 'python': platform.python_version(), 'cores': os.cpu_count(),
            'ssh': subprocess.run(['ssh', '-V'], capture_output=True, text=True, check=False).stderr.strip(), 'binary bytes': BINARY,
            'archive bytes': ARCHIVE, 'kernel': platform.release()}


def main():
    tables = ('first', 'images', 'memory', 'scale', 'resolve', 'slow')
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--only', default=','.join(tables), help='tables, by default all of %(default)s')
    parser.add_argument('--output', type=Path, default=ROOT / 'benchmarks')
    parser.add_argument('--plot', type=Path, default=ROOT / 'docs' / 'speed.png')
    options = parser.parse_args()
    chosen = options.only.split(',')
    install()
    if 'scale' in chosen:
        prepare_scale()
    with Lab.up('amd64,arm64,armhf,slow') as lab, tempfile.TemporaryDirectory(dir='/var/tmp') as scratch:
        bench = Bench(lab, scratch, options.rounds)
        airgap = Path(scratch) / 'airgap'
        lab.release(airgap, layout='per-arch', size=BINARY, images_size=ARCHIVE)
        for table in chosen:
            getattr(bench, table)(airgap)
        rows = summary(bench)
    options.output.mkdir(parents=True, exist_ok=True)
    result = {'facts': facts(), 'rounds': options.rounds, 'summary': rows, 'tables': bench.results}
    (options.output / 'bench.json').write_text(json.dumps(result, indent=1) + '\n')
    if 'scale' in chosen:
        plot(bench.results, options.plot)
    print(json.dumps(result['facts']))
    for table, methods in bench.results.items():
        print(f'\n{table}')
        for name, values in methods.items():
            print('  ', name, values.get('median', values.get('bytes')))
    print()
    for figure, measured, aim in rows:
        print(f'{figure:<70} {measured:>8} {"" if aim is None else f"aim {aim}"}')


if __name__ == '__main__':
    main()
