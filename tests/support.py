# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests share: running Ansible as a user does, and files that look like a K3s release."""

from __future__ import annotations

import atexit
import gzip
import hashlib
import importlib
import importlib.util
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent

MACHINES = {'amd64': 'x86_64', 'arm64': 'aarch64', 'arm': 'armv7l', 's390x': 's390x', 'riscv64': 'riscv64'}
BINARIES = {'amd64': 'k3s', 'arm64': 'k3s-arm64', 'arm': 'k3s-armhf', 's390x': 'k3s-s390x', 'riscv64': 'k3s-riscv64'}
# ELF class, byte order ('<' little, '>' big) and machine, as in the ELF specification.
ELF = {'amd64': (64, '<', 62), 'arm64': (64, '<', 183), 'arm': (32, '<', 40), 's390x': (64, '>', 22),
       'riscv64': (64, '<', 243),
       'i386': (32, '<', 3), 'ppc64': (64, '>', 21)}


# This machine's own arch: programs for it can be run by tests.
NATIVE = next(arch for arch, machine in MACHINES.items() if machine == os.uname().machine)


def ready_loader():
    """Let Ansible's plugins and collections be found in this process, as Ansible's own programs do when they start.

    The collection is this repository. pytest-ansible and ansible-test have done that before.
    """
    from ansible.plugins.loader import init_plugin_loader
    from ansible.utils.collection_loader import AnsibleCollectionConfig
    if not AnsibleCollectionConfig.collection_finder:
        home = tempfile.mkdtemp(prefix='k3s-artifact-')
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        init_plugin_loader([collection_path(Path(home))])


def load_plugin(path):
    """Return the plugin file *path* (relative to the repository) as a module, without any folder on sys.path."""
    ready_loader()
    name = 'under_test_' + Path(path).stem + '_' + Path(path).parent.name
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def collection_module(name):
    """Return the module *name* of the collection, such as plugins.action.stage."""
    ready_loader()
    return importlib.import_module(f'ansible_collections.airgap.k3s.{name}')


BODY = b'\0v1.31.4+k3s1'.ljust(64, b'\0')


def elf(arch, body=BODY, type_=2):
    """Return an ELF file for *arch*: a correct header without tables, then *body*, which has a K3s version in it."""
    bits, order, machine = ELF[arch]
    ident = b'\x7fELF' + bytes([bits // 32, 1 if order == '<' else 2, 1]) + b'\0' * 9
    layout = 'HHIIIIIHHHHHH' if bits == 32 else 'HHIQQQIHHHHHH'
    size = 52 if bits == 32 else 64
    return ident + struct.pack(order + layout, type_, machine, 1, 0x10000, 0, 0, 0, size, 0, 0, 0, 0, 0) + body


def program(text='k3s version v1.31.4+k3s1 (abcdef12)', status=0, body=b''):
    """Return a real program for this machine (x86_64 or aarch64) that prints *text* and exits with *status*; *body* is
    padding."""
    message, base, start = text.encode() + b'\n', 0x400000, 64 + 56
    if NATIVE == 'amd64':
        code = struct.pack('<BIBI3siBI2sBIBI2s', 0xb8, 1, 0xbf, 1, b'\x48\x8d\x35', 19, 0xba, len(message), b'\x0f\x05',
                           0xb8, 60, 0xbf, status, b'\x0f\x05')
    else:
        def mov(register, value):
            return 0xd2800000 | value << 5 | register
        code = struct.pack('<8I', mov(8, 64), mov(0, 1), 0x10000000 | 6 << 5 | 1, mov(2, len(message)), 0xd4000001,
                           mov(8, 93), mov(0, status), 0xd4000001)
    size = start + len(code) + len(message)
    bits, order, machine = ELF[NATIVE]
    header = b'\x7fELF' + bytes([bits // 32, 1, 1]) + b'\0' * 9 + struct.pack(
        order + 'HHIQQQIHHHHHH', 2, machine, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack(order + 'IIQQQQQQ', 1, 5, 0, base, base, size, size, 0x1000) + code + message + body


def elf_arch(path):
    """Return the arch that the ELF header of *path* says, read without any code of the project."""
    head = Path(path).read_bytes()[:20]
    order = '<' if head[5] == 1 else '>'
    found = (head[4] * 32, order, struct.unpack(order + 'H', head[18:20])[0])
    return next(arch for arch, known in ELF.items() if known == found)


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def sha1(path):
    return hashlib.new('sha1', Path(path).read_bytes(), usedforsecurity=False).hexdigest()


def in_turn(*steps):
    """Return a function that calls *steps* one after the other, each with all that it is given itself."""
    def call_each(*arguments):
        for step in steps:
            step(*arguments)
    return call_each


def image_archive(*archs, members=()):
    """Return a plain tar as `docker save` writes one, with an image for each of *archs*, and more *members* (name,
    bytes) before them."""
    files = [*members]
    for arch in archs:
        files += [(f'{arch}.json', json.dumps({'architecture': arch, 'os': 'linux', 'rootfs': {}}).encode()),
                  (f'{arch}/layer.tar', arch.encode() * 999)]
    if archs:
        files.append(('manifest.json', json.dumps([{'Config': f'{arch}.json', 'Layers': [f'{arch}/layer.tar']}
                                                   for arch in archs]).encode()))
    return tar(files)


def tar(files):
    """Return a plain tar of *files*, (name, bytes)."""
    with io.BytesIO() as data:
        with tarfile.open(fileobj=data, mode='w') as archive:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return data.getvalue()


def zst(data):
    """Return *data* as a zstd frame whose blocks are not compressed (RFC 8878, 3.1.1)."""
    blocks = [data[start:start + 65536] for start in range(0, len(data), 65536)] or [b'']
    return b'\x28\xb5\x2f\xfd\xa0' + struct.pack('<I', len(data)) + b''.join(
        (len(block) << 3 | (number == len(blocks))).to_bytes(3, 'little') + block
        for number, block in enumerate(blocks, 1))


def image_file(name, *archs):
    """Return the bytes of an image archive called *name*, compressed as that says, with images for *archs*."""
    data = image_archive(*archs, members=[(name, b'')])
    return zst(data) if name.endswith('.zst') else gzip.compress(data) if name.endswith('.gz') else data


def release(folder, *archs, layout='flat', lists=True, images=True):
    """Make what looks like a downloaded K3s release below *folder*; return the binaries' paths by arch."""
    paths = {}
    for arch in archs or tuple(BINARIES):
        place = Path(folder) / arch if layout == 'per-arch' else Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        paths[arch] = place / BINARIES[arch]
        paths[arch].write_bytes(elf(arch, body=f'K3s for {arch} v1.31.4+k3s1 '.encode() * 10))
        archive = place / f'k3s-airgap-images-{arch}.tar.zst'
        if images:
            archive.write_bytes(zst(image_archive(arch)))
        if lists:
            named = [path for path in (archive, paths[arch]) if path.exists()]
            (place / f'sha256sum-{arch}.txt').write_text(''.join(f'{sha256(path)}  {path.name}\n' for path in named))
    return paths


class Run(NamedTuple):
    """What a run of ansible-playbook did."""

    rc: int
    output: str
    results: list  # one {'host', 'task', 'status', 'result'} for each result that a callback saw, loop items included

    def result(self, host, task):
        """Return the result of the task named *task* on *host* (the last one, if it ran more than once)."""
        found = [entry['result'] for entry in self.results if (entry['host'], entry['task']) == (host, task)
                 and not entry['item']]
        assert found, f'no result of {task!r} on {host!r} in:\n{self.output}'
        return found[-1]

    def items(self, host, task):
        return [entry['result'] for entry in self.results
                if (entry['host'], entry['task']) == (host, task) and entry['item']]

    def changed(self):
        return sum(1 for entry in self.results if entry['result'].get('changed') and not entry['item'])


def environment(folder, **extra):
    """Return the environment for Ansible's programs: nothing of the caller's configuration, all files below
    *folder*."""
    kept = {key: value for key, value in os.environ.items()
            if not key.startswith(('ANSIBLE_', 'K3S_ARTIFACT_', 'PYTEST_'))}
    home = Path(folder) / 'home'
    home.mkdir(exist_ok=True)
    return {**kept, 'HOME': str(home), 'ANSIBLE_NOCOLOR': '1', 'ANSIBLE_LOCAL_TEMP': str(home / 'local'),
            'ANSIBLE_REMOTE_TEMP': str(home / 'remote'), 'ANSIBLE_LOCALHOST_WARNING': 'false',
            'ANSIBLE_INVENTORY_UNPARSED_WARNING': 'false',
            'ANSIBLE_RETRY_FILES_ENABLED': 'false', 'PYTHONWARNINGS': 'ignore', 'LC_ALL': 'C.UTF-8', **extra}


def ansible(program, *arguments, folder, env=None, timeout=300):
    """Run one of Ansible's programs in *folder*; return the completed process, its output as text."""
    return subprocess.run([str(PROGRAMS / program), *map(str, arguments)], cwd=folder,
                          env=environment(folder, **(env or {})), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, check=False)


def install_drop_in(folder):
    """Copy the two plugin files next to the playbooks in *folder*, as the README says."""
    for source, target in (('plugins/action/copy.py', 'action_plugins'),
                           ('plugins/lookup/k3s_artifact.py', 'lookup_plugins')):
        (Path(folder) / target).mkdir(exist_ok=True)
        shutil.copy(ROOT / source, Path(folder) / target)


def collection_path(folder):
    """Return a folder for ANSIBLE_COLLECTIONS_PATH in which airgap.k3s is this repository."""
    parent = Path(folder) / 'collections' / 'ansible_collections' / 'airgap'
    parent.mkdir(parents=True, exist_ok=True)
    if not (parent / 'k3s').exists():
        (parent / 'k3s').symlink_to(ROOT)
    return str(Path(folder) / 'collections')


def write_inventory(path, hosts):
    """Write an inventory of *hosts*, variables by name, all of which are this machine; return its path."""
    local = {'ansible_connection': 'local', 'ansible_python_interpreter': sys.executable}
    path.write_text(json.dumps({'all': {'hosts': {name: {**local, **variables} for name, variables in hosts.items()}}}))
    return path


def play(folder, playbook, *arguments, hosts=None, home='drop-in', env=None, timeout=300):
    """Run *playbook* with ansible-playbook in *folder* and return the :class:`Run`.

    playbook: a list of plays (written to site.yml), a path, or the name of a collection's playbook.
    hosts: variables by host name; every host is this machine, over the connection plugin local. Or the path of an
    inventory.
    home: where Ansible finds the plugins: 'drop-in', 'collection', or 'none'.
    """
    folder = Path(folder)
    record = folder / 'record.jsonl'
    record.unlink(missing_ok=True)
    env = {'ANSIBLE_CALLBACK_PLUGINS': str(ROOT / 'tests' / 'callbacks'), 'ANSIBLE_CALLBACKS_ENABLED': 'record',
           'RECORD_FILE': str(record), **(env or {})}
    if home == 'drop-in':
        install_drop_in(folder)
    if home == 'collection':
        env['ANSIBLE_COLLECTIONS_PATH'] = collection_path(folder)
    if isinstance(playbook, list):
        (folder / 'site.yml').write_text(json.dumps(playbook))
        playbook = 'site.yml'
    inventory = hosts if isinstance(hosts, Path) else write_inventory(folder / 'inventory.json',
                                                                      {'node': {}} if hosts is None else hosts)
    done = ansible('ansible-playbook', '-i', inventory, playbook, *arguments, folder=folder, env=env, timeout=timeout)
    results = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    return Run(done.returncode, done.stdout, results)
