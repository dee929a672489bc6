# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Override copy: a K3s binary or image archive that is on its way to a node is the one that is right for that node.

Everything else is left to ansible-core's own copy. The documentation for users is that of the module copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import time
from typing import NamedTuple

import ansible.plugins.action
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError, AnsibleLookupError
from ansible.module_utils.common.text.converters import to_text
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display

display = Display()

INSTALL_PATH = '/usr/local/bin/k3s'
IMAGES_DIRECTORY = '/agent/images'  # below K3s's data directory, /var/lib/rancher/k3s unless --data-dir moves it
ARCHIVE_SUFFIXES = ('.tar.zst', '.tzst', '.tar.gz', '.tgz', '.tar', '.tar.bz2', '.tbz', '.tar.lz4')

# What the short path does itself. A task that says anything else is handed to ansible-core's copy.
SHORT_PATH_ARGUMENTS = frozenset(('src', 'dest', 'mode', 'owner', 'group', 'decrypt', 'directory_mode', 'local_follow'))
SHORT_PATH_DEFAULTS = {'backup': False, 'force': True, 'follow': False, 'remote_src': False, 'unsafe_writes': False}

BLOCK = 65536  # bytes; a piece starts at a multiple of it, which lets dd write at the right place and never twice
PIECE = (1 << 20, 2 << 20, 4 << 20)  # bytes: smallest, first, largest; a process holds two of them
OWN_SOCKET = '%(directory)s/k3s-{}'  # of the process that runs the task
PROGRESS_AFTER = 5  # seconds
PROGRESS_EVERY = 5  # seconds

# Both scripts need a POSIX shell and coreutils or BusyBox. They answer in lines "@key=value".
COMMON_SCRIPT = r'''
LC_ALL=C; export LC_ALL
say() { printf '@%s=%s\n' "$1" "$2"; }
if command -v openssl >/dev/null 2>&1; then sum() { openssl dgst -sha256 -r; }
elif command -v python3 >/dev/null 2>&1; then sum() { python3 -IS -c 'import hashlib, sys
h = hashlib.sha256()
for b in iter(lambda: sys.stdin.buffer.read(1 << 20), b""): h.update(b)
print(h.hexdigest())'; }
else sum() { sha256sum; }
fi
digest() { sum | { read -r d rest; printf '%s' "$d"; }; }
describe() {
    if [ -d "$dest" ]; then say kind directory
    elif [ -L "$dest" ]; then say kind link
    elif [ -f "$dest" ]; then say kind file; say stat "$(stat -c '%a %u %g %U %G %s' "$dest")"
    elif [ -e "$dest" ]; then say kind other
    else say kind absent
    fi
}
'''

PROBE_SCRIPT = COMMON_SCRIPT + r'''
say machine "$(uname -m)"
describe
if [ -f "$dest" ]; then
    say head "$(od -An -v -tx1 -N64 "$dest" | tr -d ' \n')"
    [ "$(stat -Lc %s "$dest")" != "$size" ] || say sha256 "$(digest <"$dest")"
fi
dir=${dest%/*}; spool=$dir
if [ -n "$outside" ]; then
    up=${dir%/*}
    if [ ! -d "$dir" ] || [ "$(stat -c %d "$dir")" = "$(stat -c %d "$up")" ]; then spool=$up; fi
fi
say spool "$spool"
near=$dir; while [ ! -d "$near" ]; do near=${near%/*}; near=${near:-/}; [ -n "$near" ] || break; done
[ ! -d "$dir" ] || say directory yes
[ ! -w "$near" ] || say writable yes
say user "$(id -un 2>/dev/null || id -u)"
say free "$(df -Pk "$near" | tail -n 1)"
part=$spool/$name
if [ -f "$part" ]; then
    if [ -n "$(find "$part" -mmin -1440)" ]; then
        whole=$(( $(stat -c %s "$part") / 65536 ))
        say part "$(( whole * 65536 )) $(dd if="$part" bs=65536 count="$whole" 2>/dev/null | digest)"
    else say part stale
    fi
fi
say end yes
'''

PIECE_SCRIPT = r'''
LC_ALL=C; export LC_ALL; umask 022
if [ "$block" = 0 ]; then
    [ -d "$dir" ] || mkdir -p "$dir" || exit 1
    [ -z "$fresh" ] || rm -f "$part" || exit 1
    umask 077; : >>"$part" || exit 1
elif [ ! -f "$part" ] || [ "$(( $(stat -c %s "$part") / 65536 ))" -lt "$block" ]; then exit 75
fi
dd of="$part" bs=65536 seek="$block" conv=notrunc || exit 1
'''

INSTALL_SCRIPT = COMMON_SCRIPT + r'''
trap '' HUP PIPE  # a connection that breaks now must not leave a half-installed file
fail() {
    [ -z "$part" ] || [ -f "$part" ] || set -- gone
    case $1 in digest | run) rm -f "$part" ;; *) chmod 0600 "$part" 2>/dev/null ;; esac
    say failed "$1"; say reason "$(printf '%s' "$2" | tr '\n' ' ')"; exit 1
}
if [ -n "$part" ]; then
    [ -f "$part" ] || fail gone
    [ "$(stat -c %s "$part")" -ge "$size" ] || fail short
    [ "$(digest <"$part")" = "$sha256" ] || fail digest
    target=$part
else target=$dest
fi
[ -z "$part" ] || [ -z "$keep" ] || chown "$keep" "$target" 2>/dev/null
[ -z "$owner" ] || e=$(chown "$owner" "$target" 2>&1) || fail attributes "$e"
[ -z "$group" ] || e=$(chgrp "$group" "$target" 2>&1) || fail attributes "$e"
e=$(chmod "$mode" "$target" 2>&1) || fail attributes "$e"
if [ -n "$part" ]; then
    if [ -n "$probe" ]; then
        tries=0
        while :; do
            # What the kernel refuses, a shell may take for a script. With so few descriptors it cannot read one.
            v=$(exec </dev/null 2>&1; ulimit -n 10; exec "$part" --version); code=$?
            case $code:$tries:$v in 126:[0-4]:*busy*) tries=$((tries + 1)); sleep 1 ;; *) break ;; esac
        done
        case $code:$v in
            0:*) ;;
            126:*busy*) fail busy ;;
            *) fail run "exit status $code: ${v:-it printed nothing}" ;;
        esac
        say version "$(printf '%s\n' "$v" | head -n 1)"
    fi
    [ ! -d "$dest" ] || fail directory
    e=$(mv -f "$part" "$dest" 2>&1) || fail rename "$e"
    find "${part%/*}" -maxdepth 1 -type f -name '.k3s-artifact.*.part' \( -name "$others" -o -mmin +1440 \) -exec rm -f {} +
    if command -v restorecon >/dev/null 2>&1; then restorecon "$dest" >/dev/null 2>&1; fi
fi
describe
say end yes
'''


def core_copy():
    """Return ansible-core's module of the copy action, from its own file.

    Its dotted name cannot be used: a drop-in file of the name copy.py is loaded under it.
    """
    name = '_k3s_artifact_core_copy'
    if name not in sys.modules:
        path = os.path.join(next(iter(ansible.plugins.action.__path__)), 'copy.py')
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


class Job(NamedTuple):
    """One verified file of the controller on its way to a path of a node."""

    artifact: tuple  # the lookup's Artifact
    dest: str
    mode: str  # octal digits, as for chmod
    is_binary: bool


class Node(NamedTuple):
    """What the probe found on the node."""

    machine: str
    kind: str  # of what is at the destination: absent, file, link, directory, other
    status: dict  # mode, uid, gid, owner, group, size of a file at the destination
    sha256: str | None
    head: bytes  # of the file at the destination
    spool: str  # the folder for the partial file
    has_directory: bool
    writable: bool
    user: str
    free: int | None  # bytes
    partial: tuple  # bytes and their SHA-256 of a partial file that may be continued; (0, None) without one
    stale_partial: bool


def shell_command(script, **values):
    """Return *script* with *values* as its shell variables."""
    return ''.join(f'{name}={shlex.quote(str(value))}\n' for name, value in values.items()) + script.strip('\n')


def parse_report(stdout):
    """Return the "@key=value" lines of a script's output as a dictionary. Whatever else a login prints is ignored."""
    return dict(re.findall(r'^@(\w+)=(.*?)\r?$', stdout, re.MULTILINE))


def parse_status(text):
    """Return mode, uid, gid, owner, group and size from what the scripts print of a file."""
    fields = (text or '').split()
    if len(fields) != 6:
        return {}
    mode, uid, gid, owner, group, size = fields
    return {'mode': mode.rjust(4, '0'), 'uid': int(uid), 'gid': int(gid), 'owner': owner, 'group': group, 'size': int(size)}


def parse_node(report):
    """Return the :class:`Node` for the report of the probe."""
    partial = re.fullmatch(r'(\d+) ([0-9a-f]{64})', report.get('part', ''))
    free = re.search(r'\s(\d+)\s+\d+%', report.get('free', ''))
    head = report.get('head', '')
    return Node(report.get('machine', ''), report.get('kind', ''), parse_status(report.get('stat')), report.get('sha256'),
                bytes.fromhex(head) if re.fullmatch(r'([0-9a-f]{2})*', head) else b'', report.get('spool', ''),
                'directory' in report, 'writable' in report, report.get('user', ''), int(free.group(1)) * 1024 if free else None,
                (int(partial.group(1)), partial.group(2)) if partial else (0, None), 'part' in report and not partial)


def octal_mode(mode):
    """Return a task's mode as four octal digits, or None where it is symbolic or "preserve"."""
    if isinstance(mode, str) and re.fullmatch(r'\s*[0-7]{3,5}\s*', mode):
        mode = int(mode, 8)
    return f'{mode:04o}' if isinstance(mode, int) and not isinstance(mode, bool) and 0 <= mode <= 0o7777 else None


def without_compression(arguments):
    """Return ssh arguments without those for compression and for a shared connection."""
    words, kept = iter(shlex.split(arguments or '')), []
    for word in words:
        option = next(words, '') if word == '-o' else word[2:] if word.startswith('-o') else None
        if option is not None:
            name = re.split(r'[\s=]', option.strip(), maxsplit=1)[0].lower()
            kept += [] if name in ('compression', 'controlmaster', 'controlpersist', 'controlpath') else ['-o', option]
        elif re.fullmatch(r'-[46AaCfGgKkMNnqsTtVvXxYy]+', word):
            word = word.replace('C', '').replace('M', '')
            kept += [word] if word != '-' else []
        elif word == '-S':
            next(words, '')
        else:
            kept.append(word)
    return shlex.join(kept)


def progress_line(host, name, done, size, sent, seconds):
    """Say how far a transfer is. *sent* bytes in *seconds* give the rate; *done* counts what was there before."""
    rate = max(sent / seconds, 1)
    left = 'done' if done >= size else f'{(size - done) / rate:.0f} s left'
    return (f'{host}: {name} {100 * done // max(size, 1)} % ({done / 1e6:.1f} of {size / 1e6:.1f} MB, '
            f'{rate / 1e6:.1f} MB/s, {left})')


class StagingError(AnsibleError):
    """What goes wrong on the way to the node, as a sentence for the person who runs the playbook."""


class PartialLost(Exception):
    """The partial file is not as this run left it: another run against the same node has moved it."""


class ActionModule(core_copy().ActionModule):

    def run(self, tmp=None, task_vars=None):
        self._vars = self._variables_of_target(task_vars or {})
        with self._arguments(self._with_defaults_of_builtin()):
            job = None
            try:
                job = self._binary_job() or self._archive_job()
                if isinstance(job, Job):
                    with contextlib.nullcontext() if self._shares_open_connection() else self._own_connection():
                        return self._deliver(job, task_vars)
            except (AnsibleLookupError, StagingError) as error:
                known = self._artifact_result(job) if job else self._known_of_host()
                raise AnsibleActionFail(error.message, result={'k3s_artifact': known}) from None
            return super().run(tmp, task_vars) if job is None else job

    # --- what the task asks for

    @contextlib.contextmanager
    def _arguments(self, arguments):
        """Run with other task arguments. The task's own are back afterwards: they serve the next try and loop item."""
        original, self._task.args = self._task.args, arguments
        try:
            yield
        finally:
            self._task.args = original

    def _with_defaults_of_builtin(self):
        """Return the arguments with the module_defaults of ansible.builtin.copy, which must go on applying to copy."""
        defaults = {}
        if self._task.action in ('copy', 'ansible.legacy.copy'):
            for entry in self._task.module_defaults or []:
                defaults.update(entry)
        defaults = self._templar.template(defaults.get('ansible.builtin.copy', {}))
        omit, omitted = self._vars.get('omit'), self._omitted()
        return {**{key: value for key, value in defaults.items() if value != omit and key not in omitted}, **self._task.args}

    def _omitted(self):
        """Return the names of the arguments that the task sets to "omit": those take no default either."""
        written = self._task.get_ds() or {}
        names = {name for key in (self._task.action, 'args') if isinstance(written.get(key), dict) for name in written[key]}
        return names - set(self._task.args)

    def _variables_of_target(self, task_vars):
        """Return the variables of the host on which the file lands: with delegate_to, that host's win."""
        delegated = task_vars.get('ansible_delegated_vars') or {}
        variables = delegated.get(self._task.delegate_to) if self._task.delegate_to else None
        if not variables:
            return task_vars
        target = {'inventory_hostname': self._task.delegate_to}
        if 'ansible_facts' not in variables:
            target.update(ansible_facts={}, ansible_architecture=None)
        machine_of_first = set() if 'k3s_artifact_machine' in variables else {'k3s_artifact_machine'}
        return {key: value for key, value in {**task_vars, **variables, **target}.items() if key not in machine_of_first}

    def _is_own_copy(self):
        """Tell whether the task itself is a copy of a file of the controller, not a template that calls copy inside."""
        arguments = self._task.args
        return (self._task.action.rpartition('.')[2] == 'copy' and isinstance(arguments.get('src'), str)
                and arguments.get('content') is None and not boolean(arguments.get('remote_src', False), strict=False))

    def _binary_job(self):
        """Return the :class:`Job` for a task that stages a K3s binary, None for any other."""
        source, dest = self._task.args.get('src'), self._task.args.get('dest')
        if not self._is_own_copy() or not isinstance(dest, (str, type(None))):
            return None
        if not source.rpartition('/')[2].startswith('k3s') and 'k3s_binary_map' not in self._vars:
            return None
        lookup = self._lookup()
        if source.rpartition('/')[2] not in lookup.binary_names():
            return None
        target = self._install_path()
        named = self._find(source)
        at_home = not dest or os.path.normpath(dest) in (target, INSTALL_PATH, os.path.dirname(target), os.path.dirname(INSTALL_PATH))
        if not at_home and not (named and lookup.is_elf_executable(named)):
            return None
        if not at_home:
            display.warning(f'{dest} is not the install path of K3s: the binary goes to {target}. '
                            f'Set k3s_artifact_dest to move it on purpose.')
        artifact = self._for_machine(lookup).binary(named or (source if os.path.isabs(source) else None))
        return Job(artifact, target, octal_mode(self._mode('0755')), True)

    def _archive_job(self):
        """Return the :class:`Job` for an image archive on its way to K3s, a skipped result, or None for any other task."""
        source, dest = self._task.args.get('src'), self._task.args.get('dest')
        if not self._is_own_copy() or not isinstance(dest, str) or not source.endswith(ARCHIVE_SUFFIXES):
            return None
        path = self._find(source)
        name = os.path.basename(source)
        directory = dest.rstrip('/') if not dest.endswith(ARCHIVE_SUFFIXES) else os.path.dirname(dest)
        if not path or not os.path.isfile(path) or name.startswith('.') or not re.fullmatch(f'[/~].*{IMAGES_DIRECTORY}', directory):
            return None
        directory = self._remote_expand_user(directory)
        lookup = self._for_machine(self._lookup())
        reason = lookup.refuses_archive(path, self._globs())
        if reason:
            return {'changed': False, 'skipped': True, 'skip_reason': reason, 'msg': reason, 'dest': dest,
                    'k3s_artifact': {'machine': lookup.host.machine, 'arch': lookup.host.arch, 'source': path}}
        target = os.path.join(directory, os.path.basename(dest) if dest.endswith(ARCHIVE_SUFFIXES) else name)
        return Job(lookup.archive(path), target, octal_mode(self._mode('0644')), False)

    def _mode(self, default):
        mode = self._task.args.get('mode')
        return default if mode is None else mode

    def _install_path(self):
        path = self._option('k3s_artifact_dest', INSTALL_PATH)
        if not isinstance(path, str) or not path.startswith('/') or path.endswith('/'):
            raise StagingError(f'k3s_artifact_dest of {self._host} is {path!r}. Set it to the absolute path of the binary on the node.')
        return os.path.normpath(path)

    def _option(self, name, default):
        if name not in self._vars:
            return default
        return self._templar.copy_with_new_env(available_variables=self._vars).template(self._vars[name])

    def _find(self, source):
        try:
            return self._find_needle('files', source)
        except AnsibleError:
            return None

    def _globs(self):
        """Return the patterns of a with_fileglob loop: what else the task is going to hand over."""
        if getattr(self._task, 'loop_with', None) != 'fileglob':
            return []
        patterns = self._templar.template(self._task.loop)
        patterns = [patterns] if isinstance(patterns, str) else patterns
        return [os.path.join('/*', re.sub(r'^(\.\./)+', '', os.path.normpath(os.path.expanduser(pattern)))) for pattern in patterns]

    # --- which file

    def _known_of_host(self):
        """Return what is known of the node although no file was found for it."""
        try:
            host = self._for_machine(self._lookup()).host
        except AnsibleError:
            return {}
        return {'machine': host.machine, 'arch': host.arch}

    def _lookup(self):
        """Return the lookup plugin that lives beside this one: loose, or in the same collection."""
        package = type(self).__module__.split('.')
        prefix = '.'.join(package[1:3]) + '.' if package[0] == 'ansible_collections' else ''
        lookup = self._shared_loader_obj.lookup_loader.get(prefix + 'k3s_artifact', loader=self._loader, templar=self._templar)
        if lookup is None:
            raise StagingError('the lookup plugin k3s_artifact was not found, which copy needs to choose a K3s binary. '
                               'Put k3s_artifact.py into a folder lookup_plugins/ beside the playbook.')
        return lookup.prepare(self._vars)

    def _for_machine(self, lookup):
        """Return *lookup* with the machine of the node asked for where no variable and no fact tells it."""
        if lookup.knows_machine():
            return lookup
        report = self._ask(COMMON_SCRIPT + 'say machine "$(uname -m)"')
        if 'machine' not in report:
            raise StagingError(f'{self._host}: cannot ask the node for its machine: {report["error"]}')
        return lookup.prepare(self._vars, machine=report.get('machine', ''))

    # --- on the node

    def _ask(self, command, in_data=None):
        """Run a shell command on the node, as the user that the task becomes; return its report or fail."""
        result = self._low_level_execute_command(command, in_data=in_data)
        report = parse_report(result['stdout'])
        report['rc'] = result['rc']
        # On a terminal, errors come as output. What ssh itself says of a connection that works is not what went wrong.
        noise = r'^(@\w+=|Warning: Permanently added|Shared connection to).*$'
        said = re.sub(noise, '', f'{result["stdout"]}\n{result["stderr"]}', flags=re.MULTILINE)
        report['error'] = ' '.join(said.split())[-300:]
        return report

    @property
    def _host(self):
        return to_text(self._vars.get('inventory_hostname', ''))

    def _probe(self, job):
        report = self._ask(shell_command(
            PROBE_SCRIPT, dest=job.dest, size=job.artifact.size, name=self._partial_name(job), outside='' if job.is_binary else 'yes'))
        if report.get('end') != 'yes':
            raise StagingError(f'{self._host}: cannot look at {job.dest} on the node: {report["error"]}')
        return parse_node(report)

    @staticmethod
    def _partial_name(job):
        return f'.k3s-artifact.{os.path.basename(job.dest)}.{job.artifact.sha256}.part'

    def _deliver(self, job, task_vars):
        """Put the file of *job* on the node and return the result of the task."""
        if self._connection._shell.SHELL_FAMILY != 'sh':
            return self._deliver_through_core(job, None, task_vars)
        node = self._probe(job)
        self._check_node(job, node)
        obstacle = self._obstacle(job)
        if obstacle:
            display.vvv(f'the short path does not do {obstacle}: {job.dest} goes through copy of ansible-core', host=self._host)
            return self._deliver_through_core(job, node, task_vars)
        result = self._result(job, node)
        if result['k3s_artifact']['installed'] != 'same':
            self._check_room(job, node)
        if self._task.diff and result['changed']:
            result['diff'] = [self._difference(job, node)]
        if self._task.check_mode or not result['changed']:
            return result
        try:
            report = self._transfer_and_install(job, node)
        except PartialLost:
            node = self._probe(job)
            if node.sha256 != job.artifact.sha256:
                raise StagingError(f'{self._host}: the partial file in {node.spool} was changed or taken away by somebody else, '
                                   f'perhaps by another run against this node. Run again.')
            return self._result(job, node)
        result.update(parse_status(report.get('stat')))
        self._note_version(result, report)
        return result

    def _check_node(self, job, node):
        """Fail where the node is not what its facts say, or cannot take the file."""
        lookup = self._lookup()
        if not lookup.get_option('machine') and lookup.arch_of(node.machine) != job.artifact.arch:
            raise StagingError(f'{self._host} says that it is {node.machine!r}, its facts say {job.artifact.machine} (arch '
                               f'{job.artifact.arch}). Gather its facts again, or set k3s_artifact_machine. Nothing was sent.')
        directory = os.path.dirname(job.dest)
        if node.kind in ('directory', 'other'):
            raise StagingError(f'{job.dest} on {self._host} is a {node.kind.replace("other", "special file")}, not a file. '
                               f'Remove it, or set k3s_artifact_dest to another path. Nothing was changed.')
        if not node.has_directory and job.is_binary and not self._task.check_mode:  # a task before it may make the folder
            raise StagingError(f'the folder {directory} does not exist on {self._host}. Create it first.')

    def _check_room(self, job, node):
        """Fail where the new file cannot be written."""
        directory = os.path.dirname(job.dest)
        if not node.writable:
            raise StagingError(f'{self._host}: the user {node.user} cannot write to {directory} on the node, or its file '
                               f'system is read-only. Use become: true, or make it writable. Nothing was changed.')
        needed = job.artifact.size - node.partial[0]
        if node.free is not None and node.free < needed:
            raise StagingError(f'{self._host}: {job.artifact.source} needs {needed} bytes in {directory} on the node, '
                               f'{node.free} are free. Free some space. Nothing was changed.')

    def _result(self, job, node):
        """Return the result of a task that has done nothing yet; "changed" says whether there is something to do."""
        wanted = self._wanted_attributes(job)
        same_content = node.kind == 'file' and node.sha256 == job.artifact.sha256
        same_attributes = all(str(value) in allowed for value, allowed in (
            (wanted['mode'], [node.status.get('mode')]),
            (wanted['owner'] or '', ['', node.status.get('owner'), str(node.status.get('uid'))]),
            (wanted['group'] or '', ['', node.status.get('group'), str(node.status.get('gid'))])))
        return {
            'changed': not (same_content and same_attributes), 'dest': job.dest, 'state': 'file', **node.status,
            'size': job.artifact.size, 'mode': wanted['mode'], 'checksum': job.artifact.checksum,
            'k3s_artifact': self._artifact_result(job, node),
        }

    def _wanted_attributes(self, job):
        arguments = self._task.args
        return {'mode': job.mode, 'owner': arguments.get('owner'), 'group': arguments.get('group')}

    def _artifact_result(self, job, node=None):
        artifact = job.artifact
        result = {key: getattr(artifact, key) for key in ('machine', 'arch', 'source', 'size', 'sha256', 'verified')}
        if node is not None:
            result['installed'] = self._installed(job, node)
            result['bytes_to_send'] = 0 if result['installed'] == 'same' else artifact.size - node.partial[0]
            result['free'] = node.free
        return result

    def _installed(self, job, node):
        """Say what is at the destination now, without running it."""
        if node.kind != 'file':
            return node.kind
        if node.sha256 == job.artifact.sha256:
            return 'same'
        arch = self._lookup().elf_arch(node.head) if job.is_binary else job.artifact.arch
        return 'different' if arch == job.artifact.arch else 'wrong architecture'

    def _difference(self, job, node):
        def text(sha256, size, mode):
            return f'sha256 {sha256 or "another"}\nsize {size}\nmode {mode}\n'
        before = text(node.sha256, node.status['size'], node.status['mode']) if node.kind == 'file' else ''
        return {'before_header': job.dest, 'after_header': job.artifact.source, 'before': before,
                'after': text(job.artifact.sha256, job.artifact.size, job.mode)}

    def _note_version(self, result, report):
        printed = re.search(r'\bv\d[\w.+-]*', report.get('version', ''))
        if not printed:
            return
        version = result['k3s_artifact']['version'] = printed.group(0)
        wanted = self._option('k3s_version', version)
        if wanted != version:
            display.warning(f'{self._host} got K3s {version}, k3s_version says {wanted}: '
                            f'{result["k3s_artifact"]["source"]} is of another release.')

    # --- through copy of ansible-core

    def _obstacle(self, job):
        """Return what the task asks for and the short path does not do, or None."""
        arguments = self._task.args
        for name, value in arguments.items():
            if name in SHORT_PATH_DEFAULTS:
                if boolean(value, strict=False) != SHORT_PATH_DEFAULTS[name]:
                    return f'{name}: {value}'
            elif name not in SHORT_PATH_ARGUMENTS and value is not None:
                return name
        if job.mode is None:
            return f'mode: {arguments["mode"]}'
        if self._is_become_unprivileged():
            return 'become to an unprivileged user'
        if self._task.async_val:
            return 'async'
        return None if self._connection.has_pipelining else f'the connection plugin {self._connection.transport}'

    def _deliver_through_core(self, job, node, task_vars):
        arguments = {**self._task.args, 'src': job.artifact.source, 'dest': job.dest, 'mode': job.mode or self._task.args['mode']}
        arguments.setdefault('checksum', job.artifact.checksum)  # what arrives must be what was verified
        with self._arguments(arguments):
            result = super().run(None, task_vars)
        result['k3s_artifact'] = self._artifact_result(job, node)
        return result

    # --- the short path

    def _transfer_and_install(self, job, node):
        install = self._install_script(job, node)
        if node.kind == 'file' and node.sha256 == job.artifact.sha256:
            report = self._ask(shell_command(install, part=''))
        else:
            report = self._transfer(job, node, install)
        if report.get('end') != 'yes':
            self._raise_install_error(job, report)
        return report

    def _install_script(self, job, node):
        """Return the script that installs the partial file in its variable "part"; without one it sets the attributes only."""
        owner, group = self._task.args.get('owner'), self._task.args.get('group')
        return shell_command(
            INSTALL_SCRIPT, dest=job.dest, size=job.artifact.size, sha256=job.artifact.sha256, mode=job.mode,
            owner='' if owner is None else owner, group='' if group is None else group,
            keep='{uid}:{gid}'.format(**node.status) if node.status else '',  # where that is allowed, as core does
            probe='yes' if job.is_binary and int(job.mode, 8) & 0o111 and boolean(self._option('k3s_artifact_probe', True)) else '',
            others=f'.k3s-artifact.{os.path.basename(job.dest)}.*.part')

    def _raise_install_error(self, job, report):
        reason = report.get('reason') or report['error']
        if report.get('failed') in ('gone', 'busy'):
            raise PartialLost
        message = {
            'short': f'{job.artifact.source} arrived incomplete. It became shorter during the run, or the transfer broke. Run again.',
            'digest': f'what arrived is not the file that was verified: {job.artifact.source} was changed during the run, '
                      f'or the transfer was damaged. Run again.',
            'run': f'the node cannot run the new binary ({reason}). Check that {job.artifact.source} is for its processor and '
                   f'that the file system allows programs to run; k3s_artifact_probe: false turns this check off.',
            'attributes': f'owner, group or mode of {job.dest} cannot be set: {reason}.',
            'directory': f'{job.dest} has become a directory.',
            'rename': f'{job.dest} cannot be replaced: {reason}.',
        }.get(report.get('failed'), f'{job.dest} cannot be installed: {reason}.')
        raise StagingError(f'{self._host}: {message} What was at {job.dest} before is still there.')

    def _transfer(self, job, node, install):
        """Send what is missing of the file to the partial file on the node and install it; return the node's report."""
        part = os.path.join(self._spool(job, node), self._partial_name(job))
        with self._opened(job.artifact.source) as file, self._own_connection():
            start = self._resume_at(file, node.partial)
            file.seek(start)
            fresh = 'yes' if node.stale_partial or (node.partial[0] and not start) else ''
            progress = Progress(self._host, os.path.basename(job.artifact.source), job.artifact.size, start, self._task.no_log)
            socket = self._open_socket()
            if socket:
                with self._streaming(socket, file, progress):
                    report = self._send(job, part, start, b'', fresh, install)
            else:
                for done, data in self._pieces(file, progress):
                    self._send(job, part, done, data, '' if done else fresh)
                report = self._ask(shell_command(install, part=part))
            progress.finish()
        return report

    def _opened(self, path):
        try:
            return open(path, 'rb', buffering=0)
        except OSError as error:
            raise StagingError(f'{self._host}: {path} was there when it was verified and cannot be read now: {error.strerror}. '
                               f'Put it back and run again. Nothing was changed.') from error

    @staticmethod
    def _spool(job, node):
        """Return the folder of the partial file; what a node says is taken only if it is one of the two that it can be."""
        directory = os.path.dirname(job.dest)
        return node.spool if node.spool == os.path.dirname(directory) else directory

    @staticmethod
    def _resume_at(file, partial):
        """Return the offset from which a partial file of (bytes, SHA-256) is to be continued: 0 if it is not ours."""
        length, digest = partial
        known, left = hashlib.sha256(), length
        while left > 0:
            data = file.read(min(left, 1 << 20))
            if not data:
                return 0
            known.update(data)
            left -= len(data)
        return length if length and known.hexdigest() == digest else 0

    @staticmethod
    def _pieces(file, progress):
        """Yield the offset and the bytes of each piece from where *file* is, larger or smaller as the link allows."""
        smallest, length, largest = PIECE
        while True:
            done, began = file.tell(), time.monotonic()
            data = file.read(length)
            if data or not done:
                yield done, data
            progress.at(file.tell())
            if len(data) < length:
                return
            took = time.monotonic() - began
            length = min(length * 2, largest) if took < 1 else max(length // 2, smallest) if took > 4 else length

    def _send(self, job, part, done, data, fresh, then=''):
        """Write *data* (or what is streamed) at the offset *done* of the partial file and run *then*; return the report."""
        write = shell_command(PIECE_SCRIPT, part=part, dir=os.path.dirname(job.dest), block=done // BLOCK, fresh=fresh)
        try:
            report = self._ask(f'{write}\n{then}'.strip(), in_data=data)
        except AnsibleConnectionFailure as error:
            raise AnsibleConnectionFailure(
                f'the connection broke while {job.artifact.source} was sent; what is at {job.dest} is complete, and the next run '
                f'continues the transfer. {error.message}') from error
        if report['rc'] == 75:
            raise PartialLost
        if report['rc'] != 0 and 'failed' not in report:
            raise StagingError(f'{self._host}: {part} cannot be written on the node: {report["error"]}. '
                               f'What was at {job.dest} before is still there.')
        return report

    @contextlib.contextmanager
    def _own_connection(self):
        """Use an ssh connection of the task's own, without compression.

        A K3s binary and its archives are compressed already, and compressing them again is most of the time that copy takes.
        Only options of the connection plugin change, and only here: the user's other arguments stay in force, and the shared
        connection stays as it is. Other connection plugins are used as they are.
        """
        if self._connection.transport != 'ssh' or self._connection.get_option('control_path') == OWN_SOCKET.format(os.getpid()):
            yield
            return
        kept = {name: self._connection.get_option(name) for name in ('ssh_args', 'ssh_common_args', 'ssh_extra_args', 'control_path')}
        changed = {name: without_compression(kept[name]) for name in ('ssh_args', 'ssh_common_args', 'ssh_extra_args')}
        changed['ssh_args'] = '-o Compression=no -o ControlMaster=auto -o ControlPersist=30s ' + changed['ssh_args']
        changed['control_path'] = OWN_SOCKET.format(os.getpid())
        try:
            for name, value in changed.items():
                self._connection.set_option(name, value)
            yield
        finally:
            for name, value in kept.items():
                self._connection.set_option(name, value)

    def _open_socket(self):
        """Return the control socket of the task's own ssh connection for a stream, None where pieces have to do.

        A become plugin that has to answer a prompt needs the connection plugin between itself and the node.
        """
        become = self._connection.become
        if self._connection.transport != 'ssh' or become and become.get_option('become_pass'):
            return None
        socket = self._control_socket(OWN_SOCKET.format(os.getpid()))
        if not os.path.exists(socket):
            self._ask(':')
        return socket if os.path.exists(socket) else None

    def _control_socket(self, name):
        return name % {'directory': os.path.expanduser(self._connection.get_option('control_path_dir'))}

    def _shares_open_connection(self):
        """Tell whether Ansible's shared ssh connection to the node is open: then the probe costs no new one.

        Where that cannot be told, it is taken to be.
        """
        name_of = getattr(self._connection, '_create_control_path', None)
        if self._connection.transport != 'ssh' or name_of is None or self._connection.get_option('control_path'):
            return True
        host = self._connection.get_option('host') or self._play_context.remote_addr
        name = name_of(host, self._connection.get_option('port'), self._connection.get_option('remote_user'))
        return os.path.exists(self._control_socket(name))

    @contextlib.contextmanager
    def _streaming(self, socket, file, progress):
        """Feed the next command on the node with the rest of *file*, through the open ssh connection at *socket*."""
        connection = self._connection
        self._connection = StreamedConnection(connection, socket, file, progress)
        try:
            yield
        finally:
            self._connection = connection


class StreamedConnection:
    """A connection whose commands read the rest of a file, in constant memory and one go.

    A connection plugin takes what a command is to read as one string of bytes. A file of hundreds of megabytes does not fit in
    there, and sending it in pieces costs a round trip and a tenth of a second of the controller's time for each. Here ssh reads
    the file.
    """

    def __init__(self, connection, socket, file, progress):
        self._connection, self._socket, self._file, self._progress = connection, socket, file, progress

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def exec_command(self, command, in_data=None, sudoable=True):
        # ProxyCommand: where the connection is gone, fail. ssh would make a new one, to another port or user.
        arguments = ['-o', f'ControlPath={self._socket}', '-o', 'ControlMaster=no', '-o', 'ProxyCommand=false', self._connection.host]
        with subprocess.Popen([self._connection.get_option('ssh_executable'), *arguments, command],
                              stdin=self._file, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                while process.returncode is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        stdout, stderr = process.communicate(timeout=1)
                    self._progress.at(self._file.tell())  # ssh reads the open file itself, and so moves its offset
            except BaseException:  # such as the end of the task's timeout
                process.kill()
                raise
        if process.returncode == 255:
            raise AnsibleConnectionFailure(to_text(stderr).strip())
        return process.returncode, stdout, stderr


class Progress:
    """Print how far a transfer is, once it has lasted some seconds, and when it is done."""

    def __init__(self, host, name, size, start, silent):
        self._host, self._name, self._size, self._start, self._silent = host, name, size, start, silent
        self._began = self._printed = time.monotonic()
        self._any = False

    def at(self, done):
        now = time.monotonic()
        if now - self._began < PROGRESS_AFTER or now - self._printed < PROGRESS_EVERY or done >= self._size:
            return
        self._print(done, now)

    def finish(self):
        if self._any or time.monotonic() - self._began >= PROGRESS_AFTER:
            self._print(self._size, time.monotonic())

    def _print(self, done, now):
        self._any, self._printed = True, now
        if not self._silent:
            display.display(progress_line(self._host, self._name, done, self._size, done - self._start, now - self._began))
