# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of SSH nodes with amd64, arm64 and armhf userlands, for the integration tests.

    python3 lab.py install                        what the lab needs, from apt
    python3 lab.py run [--nodes SPEC] [-- ARGS]   install, up, pytest, down, whatever happens
    python3 lab.py up [--nodes SPEC]              nodes that stay up, for development
    python3 lab.py status
    python3 lab.py down                           also after a lab that was killed

SPEC lists kinds of nodes: `amd64,arm64,armhf` (the default), `amd64*10`, `busybox`,
`slow` or `slow:rate=5mbit`. The nth node of a kind is called `amd64`, `amd64-2`, ...

Everything is below /var/lib/k3s-artifact-lab, or the directory that the environment
variable K3S_ARTIFACT_LAB_HOME names. The machine's own users and sshd are left alone.

    with Lab.up('arm64,busybox') as lab:
        lab.nodes['arm64'].run('uname -m').stdout
"""

import argparse
import contextlib
import ctypes
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lab_install import install, register_handlers, unregister_handlers
from lab_node import HOST_KEY_OPTIONS, ROOTS, Node, end_holders
from lab_release import make_release
from lab_roots import ADMIN, GUEST, passwd_line, prepare, remove_tree, USERS
from lab_system import LabError, Lock, home, mount, require_root, run, say, stage, unmount_all

LAB_VARIABLE = 'K3S_ARTIFACT_LAB'
DEFAULT_NODES = 'amd64,arm64,armhf'
DEFAULT_RATE = '20mbit'
FIRST_PORT = 22201
TESTS = Path('tests/integration/lab')
REPOSITORY = Path(__file__).resolve().parents[3]
TERM = re.compile(r'(?P<kind>[a-z0-9]+)(?:\*(?P<count>[0-9]+))?(?::rate=(?P<rate>[0-9a-z]+))?')
LOCK = Lock()


class Lab:
    """A running lab.

    nodes      name -> Node, in the order they were asked for
    file       the lab.json that Lab.load reads
    key_file   the private key that root, `admin` and `guest` accept on every node
    admin      a user with password-less sudo, who may also log in with `password`
    guest      a user without sudo
    """

    admin = ADMIN
    guest = GUEST

    def __init__(self, nodes=(), password=None):
        self.file = home() / 'lab.json'
        self.key_file = home() / 'key'
        self.password = password or secrets.token_urlsafe(12)
        self.nodes = {node.name: node for node in nodes}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    @classmethod
    def up(cls, spec=DEFAULT_NODES):
        """Starts a new lab with the nodes of `spec`, after taking down any other; returns it."""
        orders = parse(spec)
        require_root()
        LOCK.take()
        cls.down(keep_lock=True)
        lab = cls()
        try:
            lab._prepare_home()
            register_handlers()
            lab._start(orders)
        except BaseException:
            cls.down()
            raise
        return lab

    @classmethod
    def load(cls, path=None):
        """The lab that is up, from its lab.json (by default the one $K3S_ARTIFACT_LAB names)."""
        path = Path(path or os.environ.get(LAB_VARIABLE) or home() / 'lab.json')
        try:
            state = json.loads(path.read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:
            raise LabError(f'No lab is up: {path} cannot be read ({error}).') from error
        return cls([Node(**node) for node in state['nodes']], state['password'])

    def add(self, spec):
        """Starts more nodes in a lab that is up; returns them as a list."""
        return self._start(parse(spec))

    def remove(self, *nodes):
        """Ends nodes and removes them from the lab."""
        for node in nodes:
            node.stop()
            del self.nodes[node.name]
        self._save()

    @classmethod
    def down(cls, keep_lock=False):
        """Takes down whatever is up or left over in this home; roots and caches stay."""
        LOCK.take()
        end_holders()
        unregister_handlers()
        remove_tree(home() / 'nodes')
        unmount_all(home())
        for name in ('lab.json', 'key', 'key.pub', 'authorized_keys'):
            (home() / name).unlink(missing_ok=True)
        remove_tree(home() / 'accounts')
        if not keep_lock:
            LOCK.give_back()

    def reset(self):
        """Makes every node as new."""
        for node in self.nodes.values():
            node.reset()

    def inventory(self, path, nodes=None, user='root', password=False, **variables):
        """Writes an Ansible inventory (YAML in JSON's notation) and returns its path.

        `nodes` are Nodes or names, by default all; `user` is who logs in, by key or, for
        `admin`, by `password`. Other keywords become variables of all hosts. ssh_args stay
        Ansible's own. The file's name should end in .yml, .yaml or .json.
        """
        chosen = [self.nodes[node] if isinstance(node, str) else node for node in nodes or self.nodes.values()]
        login = {'ansible_user': user, 'ansible_ssh_common_args': ' '.join(HOST_KEY_OPTIONS)}
        if password:
            login['ansible_password'] = self.password
        else:
            login['ansible_ssh_private_key_file'] = str(self.key_file)
        hosts = {node.name: self._host_variables(node) for node in chosen}
        path = Path(path)
        path.write_text(json.dumps({'all': {'hosts': hosts, 'vars': {**login, **variables}}}, indent=2) + '\n',
                        encoding='utf-8')
        return path

    @staticmethod
    def _host_variables(node):
        """What Ansible has to know of one node."""
        variables = {'ansible_host': node.host, 'ansible_port': node.port}
        if node.python:
            variables['ansible_python_interpreter'] = '/usr/bin/python3'
        return variables

    release = staticmethod(make_release)

    def _prepare_home(self):
        """Makes what the nodes share: a key, the users that sshd knows, a place for mounts."""
        run('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'k3s-artifact-lab', '-f', self.key_file)
        public = self.key_file.with_name('key.pub').read_text(encoding='ascii')
        (home() / 'authorized_keys').write_text(public, encoding='ascii')
        (home() / 'authorized_keys').chmod(0o644)
        write_accounts(home() / 'accounts', self.password)
        # A mount of its own that is shared with the nodes' namespaces, so they see the nodes' mounts
        mount(home(), home(), bind=True)
        for mode in ('--make-private', '--make-shared'):
            run('mount', mode, home())
        (home() / 'nodes').mkdir(mode=0o755)
        if run('stat', '--file-system', '--format=%T', home()).stdout.strip() == 'overlayfs':
            say('this file system cannot carry an overlay, so the nodes keep their files in memory')
            mount('tmpfs', home() / 'nodes', kind='tmpfs', options='size=80%,mode=755')

    def _start(self, orders):
        """Starts ordered nodes, (kind, rate) each, and returns them."""
        roots = prepare({ROOTS[kind] for kind, _name in orders})
        nodes = []
        for kind, rate in orders:
            name = free_name(kind, self.nodes)
            host, port = (free_subnet(), 22) if rate else ('127.0.0.1', free_port())
            node = Node(home() / 'nodes' / name, name, kind, roots[ROOTS[kind]], host, port, rate)
            try:
                node.start()
            except BaseException:
                node.stop()
                raise
            self.nodes[name] = node
            nodes.append(node)
            self._save()
        return nodes

    def _save(self):
        """Writes lab.json."""
        state = {'password': self.password, 'nodes': [node.as_dict() for node in self.nodes.values()]}
        partial = self.file.with_suffix('.partial')
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(state, indent=2) + '\n', encoding='utf-8')
        partial.rename(self.file)


def parse(spec):
    """Turns `amd64*2,slow` into [('amd64', None), ('amd64', None), ('slow', '20mbit')]."""
    orders = []
    for term in spec.split(','):
        match = TERM.fullmatch(term.strip())
        if not match or match['kind'] not in ROOTS or (match['rate'] and match['kind'] != 'slow'):
            raise LabError(f'`{term}` is no kind of node; there are {", ".join(ROOTS)}, as in '
                           '`amd64*10,slow:rate=5mbit`.')
        rate = (match['rate'] or DEFAULT_RATE) if match['kind'] == 'slow' else None
        orders += [(match['kind'], rate)] * int(match['count'] or 1)
    return orders


def free_name(kind, taken):
    """The kind's own name for its first node, then kind-2, kind-3, ..."""
    number = 1
    name = kind
    while name in taken:
        number += 1
        name = f'{kind}-{number}'
    return name


def free_port():
    """A port of 127.0.0.1 on which nobody listens."""
    for port in range(FIRST_PORT, FIRST_PORT + 1000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(('127.0.0.1', port))
                return port
    raise LabError('There is no free port left for a node.')


def free_subnet():
    """The node's address in a small subnet that no route of the machine knows."""
    routes = run('ip', '-4', 'route', 'show', 'table', 'all').stdout
    for number in range(256):
        if f'10.203.{number}.' not in routes:
            return f'10.203.{number}.2'
    raise LabError('There is no free 10.203.x.0/30 subnet left for a slow node.')


def write_accounts(directory, password):
    """Writes the passwd, group and shadow that the nodes' sshd sees instead of the machine's."""
    directory.mkdir(mode=0o755)
    hashed = crypt(password)
    users = list(USERS)
    passwd = ''.join(passwd_line(user) for user in users) + 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n'
    group = ''.join(f'{user}:x:{USERS[user][0]}:\n' for user in users) + 'nogroup:x:65534:\ntty:x:5:\n'
    shadow = ''.join(f'{user}:{hashed if user == ADMIN else "*"}:19000:0:99999:7:::\n' for user in [*users, 'sshd'])
    for name, text, mode in (('passwd', passwd, 0o644), ('group', group, 0o644), ('shadow', shadow, 0o600)):
        (directory / name).touch(mode=mode)
        (directory / name).write_text(text, encoding='ascii')


def crypt(password):
    """Hashes a password as /etc/shadow wants it, with the library that login uses."""
    library = ctypes.CDLL('libcrypt.so.1')
    library.crypt.restype = ctypes.c_char_p
    return library.crypt(password.encode(), b'$6$' + secrets.token_hex(8).encode()).decode()


# Command line

class Stopped(BaseException):
    """Somebody asked us to stop, with a signal."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stoppable():
    """Turns SIGINT, SIGTERM and SIGHUP into Stopped, once, so that what is up is taken down."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number, _frame):
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_run(options):
    """Installs, brings the lab up, runs the tests, takes it down; returns pytest's exit code."""
    require_root()
    LOCK.take()
    times = []
    try:
        with stoppable():
            try:
                with stage('install', times):
                    install()
                with stage('up', times):
                    lab = Lab.up(options.nodes)
                print_nodes(lab)
                with stage('tests', times):
                    return run_tests(lab, options.arguments)
            finally:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                with stage('down', times):
                    Lab.down()
    finally:
        say(', '.join(f'{title} {seconds:.1f} s' for title, seconds in times))


def run_tests(lab, arguments):
    """Runs pytest and returns its exit code; takes it along when we are stopped.

    Unless the arguments name tests themselves, all tests of the lab are run.
    """
    environment = dict(os.environ, **{LAB_VARIABLE: str(lab.file)})
    chosen = any((REPOSITORY / word.partition('::')[0]).exists() for word in arguments if not word.startswith('-'))
    argv = [sys.executable, '-m', 'pytest', *([] if chosen else [str(TESTS)]), *arguments]
    child = subprocess.Popen(argv, cwd=REPOSITORY, env=environment, start_new_session=True,
                             preexec_fn=end_with_parent)  # noqa: PLW1509 (there is one thread)
    try:
        return child.wait()
    finally:
        end_group(child)


def end_with_parent():
    """Asks the kernel to end this process when the one that started it dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def end_group(child):
    """Ends a child that still runs, with all of its process group: kindly, then for sure."""
    for number, patience in ((signal.SIGINT, 15), (signal.SIGKILL, 5)):
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(patience)


def command_up(options):
    """Brings a lab up and leaves it up."""
    with stoppable(), stage('up'):
        lab = Lab.up(options.nodes)
    print_nodes(lab)
    print(f'export {LAB_VARIABLE}={lab.file}')
    return 0


def command_down(_options):
    """Takes the lab down."""
    require_root()
    with stage('down'):
        Lab.down()
    return 0


def command_status(_options):
    """Prints the nodes and whether they answer; the exit code is 1 if no lab is up."""
    lab = Lab.load()
    print_nodes(lab)
    return 0


def command_install(_options):
    """Installs what the lab needs."""
    with stage('install'):
        install()
    return 0


def print_nodes(lab):
    """Prints one line per node."""
    print(f'{"node":<12} {"machine":<8} {"arch":<6} {"address":<18} {"says":<8} root')
    for node in lab.nodes.values():
        says = node.run('uname -m', check=False).stdout.strip() or 'nothing'
        print(f'{node.name:<12} {node.machine:<8} {node.arch:<6} {node.host + ":" + str(node.port):<18} {says:<8} '
              f'{node.root}', flush=True)


def main(argv=None):
    """Runs one command and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index('--') if '--' in words else len(words)
    parser = argparse.ArgumentParser(prog='lab.py', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name in ('install', 'run', 'up', 'status', 'down'):
        function = globals()[f'command_{name}']
        command = commands.add_parser(name, help=function.__doc__.splitlines()[0])
        command.set_defaults(function=function)
        if name in ('run', 'up'):
            command.add_argument('--nodes', metavar='SPEC', default=DEFAULT_NODES, help='default: %(default)s')
    options = parser.parse_args(words[:cut])
    options.arguments = words[cut + 1:]
    try:
        return options.function(options)
    except LabError as error:
        print(f'lab: {error}', file=sys.stderr)
        return 1
    except Stopped as stopped:
        return 128 + stopped.number


if __name__ == '__main__':
    sys.exit(main())
