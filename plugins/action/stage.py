# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All files of a host in one task: look, send, place, and check whether the play may go on.

Documented in plugins/modules/stage.py. The delivery is that of copy, the choice of files that of the lookup.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from types import SimpleNamespace

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_text
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display
from ansible.utils.unsafe_proxy import wrap_var
from jinja2 import TemplateError

from ansible_collections.airgap.k3s.plugins.action.copy import (
    ARCHIVE_SUFFIXES, CAME, COMMON, IMAGES_DIRECTORY, INSTALL_PATH, INSTALL_SCRIPT_NAME, Delivery, Job, StagingError,
    Target, becomes_unprivileged, checked_path, checked_switch, kept, mirror_of, plain, said, shell_of)
from ansible_collections.airgap.k3s.plugins.action.relay import (
    LOOKUP, RELAY_DIRECTORY, Relay, Site, count_of, found_at_site, site_of, turn)
from ansible_collections.airgap.k3s.plugins.action.report import counted, host_row, is_for_people
from ansible_collections.airgap.k3s.plugins.lookup import k3s_artifact
from ansible_collections.airgap.k3s.plugins.plugin_utils.rpm import (
    Package, is_newer, is_selinux_package, read_package)

display = Display()
lookup_loader.get(LOOKUP, class_only=True)  # once in Ansible's own process, not again in that of each host

DATA_DIRECTORY = '/var/lib/rancher/k3s'
MODES = {'binary': '0755', 'script': '0755', 'archive': '0644', 'package': '0644'}
# A K3s that is restarted between two renames finds the images of both releases, and the new binary only with its own.
PLACED = ('archive', 'script', 'binary')
RELEASED_ARCHIVE = 'k3s-airgap-images-'
# What K3s calls its own archives: architecture and version are all that may differ.
OWN_ARCHIVE = re.compile(
    r'k3s-airgap-images(-({}|v?[0-9][\w.+]*(-(rc|alpha|beta)[0-9.]*)?([-+]k3s[0-9]+)?))+({})'.format(
        '|'.join(map(re.escape, k3s_artifact.ARCH_WORDS)), '|'.join(map(re.escape, ARCHIVE_SUFFIXES))), re.ASCII)
ARTIFACT_FIELDS = ('source', 'size', 'sha256', 'verified', 'version')
LONGEST_PROBLEM = 4000  # characters
PACKAGES_FOLDER = '/var/cache/k3s-artifact'  # of the node, while packages are installed
OTHER_MANAGERS = ('zypper', 'microdnf', 'yum', 'rpm-ostree')

# Which packages the node has, and whether it is a system of RPM: one with dnf.
#   takes   names, one a line; interpreter: the Python that ansible-core is told to use, if it is
#   answers dnf: dnf4 or dnf5; python: yes where there is one, as the module that installs needs it; manager for each
#           other program for packages of RPM; package (name, epoch, version, release); user
LOOK_FOR_PACKAGES = COMMON + r'''
if d=$(command -v dnf); then case $(readlink -f "$d") in *dnf5*) say dnf dnf5 ;; *) say dnf dnf4 ;; esac; fi
for p in "$interpreter" python3 /usr/bin/python3.* /usr/libexec/platform-python; do
    if command -v "$p" >/dev/null 2>&1; then say python yes; break; fi
done
for m in $managers; do if command -v "$m" >/dev/null 2>&1; then say manager "$m"; fi; done
printf '%s\n' "$names" | while IFS= read -r n; do
    if p=$(rpm -q --qf '%{NAME} %|EPOCH?{%{EPOCH}}:{0}| %{VERSION} %{RELEASE}\n' "$n" 2>/dev/null); then
        printf '%s\n' "$p" | while IFS= read -r l; do say package "$l"; done
    fi
done
say user "$(id -u)"
say end yes
'''
# Remove what is installed. Answers kept, the reason, where it cannot.
FORGET_PACKAGES = COMMON + r'''
if [ -d "$folder" ] && [ ! -L "$folder" ]; then e=$(rm -rf "$folder" 2>&1) || say kept "$e"; fi
say end yes
'''

# Remove image archives that are no longer needed. Those that K3s does not call so are removed only if an earlier run
# has noted them, above the folder, with inode, time and size: a run has put them there, and nobody else since.
#   takes   folder; own and others: names, one a line; here: names of this run to note; only: "look" removes nothing
#   answers pruned for each that is removed, kept (name: reason) for each that cannot be
PRUNE = COMMON + r'''
record=${folder%/*}/.k3s-artifact-placed
of_file() { printf '%s %s\n' "$(stat -c '%i %Y %s' "$folder/$1")" "$1"; }
is_noted() { [ -f "$record" ] && [ ! -L "$record" ] && grep -Fxq -e "$(of_file "$1")" "$record"; }
remove() {
    if [ ! -f "$folder/$1" ]; then return
    elif [ "$only" = look ]; then say pruned "$1"
    elif e=$(rm -f "$folder/$1" 2>&1); then say pruned "$1"
    else say kept "$1: $(printf %s "$e" | tr '\n' ' ')"
    fi
}
each() { [ -z "$1" ] || printf '%s\n' "$1"; }
each "$own" | while IFS= read -r n; do remove "$n"; done
each "$others" | while IFS= read -r n; do if [ -f "$folder/$n" ] && is_noted "$n"; then remove "$n"; fi; done
if [ "$only" != look ]; then
    rm -f "$record".*
    { each "$here" | while IFS= read -r n; do if [ -f "$folder/$n" ]; then of_file "$n"; fi; done
      if [ -f "$record" ] && [ ! -L "$record" ]; then
          while read -r i t s n; do
              if [ -f "$folder/$n" ] && [ "$(of_file "$n")" = "$i $t $s $n" ]; then of_file "$n"; fi
          done <"$record"
      fi; } 2>/dev/null | sort -u >"$record.$$"
    if [ -s "$record.$$" ]; then mv -f "$record.$$" "$record"; else rm -f "$record.$$" "$record"; fi
fi 2>/dev/null
say end yes
'''


# --- plain data ------------------------------------------------------------------------------------------------------


def images_directory(setting):
    """Return (variable, path) of the images directory. *setting* gives the value of a variable, or None."""
    for name, below in (('k3s_artifact_images_dest', ''), ('k3s_artifact_data_dir', IMAGES_DIRECTORY),
                        ('k3s_server_location', IMAGES_DIRECTORY)):
        value = setting(name)
        if value:
            return name, f'{value}{below}' if isinstance(value, str) else value
    return 'k3s_artifact_images_dest', DATA_DIRECTORY + IMAGES_DIRECTORY


def missing_room(parts):
    """Yield a sentence for each file system of the node without room for all that comes.

    Everything is sent before anything is replaced. parts: (job, node, plan).
    """
    needed, free, folders = {}, {}, {}
    for job, node, planned in parts:
        folder = os.path.dirname(job.dest)
        place = node.mount or folder
        needed[place] = needed.get(place, 0) + planned.to_send
        folders.setdefault(place, {})[folder] = True
        if node.free is not None:
            free[place] = max(free.get(place, 0), node.free)
    for place, size in needed.items():
        if size > free.get(place, size):
            yield (f'{size} bytes are needed in {" and ".join(folders[place])} on the node, {free[place]} are free. '
                   f'Free some space')


def superseded(there, new):
    """Return the names of the image archives *there* whose place those of the names *new* take.

    They are the same archive in another compression, and what else K3s released: of another release or architecture.
    """
    def stem(name):
        return next((name[:-len(suffix)] for suffix in ARCHIVE_SUFFIXES if name.endswith(suffix)), '')
    stems = {stem(name) for name in new}
    released = RELEASED_ARCHIVE if any(name.startswith(RELEASED_ARCHIVE) for name in stems) else '/'
    return sorted(name for name in set(there) - set(new)
                  if stem(name) and (stem(name) in stems or name.startswith(released)))


def image_names(rows):
    """Return the names of the image archives among the *rows* of a host's files."""
    return sorted(os.path.basename(str(row.get('dest'))) for row in rows if row.get('kind') == 'archive')


def prunable(there, new):
    """Return (own, others): what of :func:`superseded` has a name of K3s's own, and what has not. A list of each."""
    names = [name for name in superseded(there, new) if re.fullmatch(r'[^./\0\n][^/\0\n]*', name)]
    return [name for name in names if OWN_ARCHIVE.fullmatch(name)], [
        name for name in names if not OWN_ARCHIVE.fullmatch(name) and not name.startswith(RELEASED_ARCHIVE)]


def misspelt(name, near):
    """Return a warning for a variable that is called like ours and is none; *near* is the one that it resembles."""
    return f'{name} is no variable of this collection.' + (f' Perhaps {near} was meant.' if near else '')


def file_row(job, node=None, planned=None):
    """Return what a report says of one file."""
    row = {'kind': job.kind, 'dest': job.dest, 'installed': '', 'action': '', 'bytes_to_send': 0, 'came': '',
           'free': None, 'previous': '', **{name: getattr(job.artifact, name) for name in ARTIFACT_FIELDS}}
    if planned:
        row.update(installed=planned.installed, action=planned.action, bytes_to_send=planned.to_send, free=node.free,
                   previous=kept(job, planned))
    return row


def sent_entry(job, node, planned, sent):
    """Return what the step "place" has to know of a file that waits on the node, or whose attributes are to be set."""
    return {'kind': job.kind, 'source': job.artifact.source, 'dest': job.dest, 'size': job.artifact.size,
            'sha256': job.artifact.sha256, 'owner': job.owner, 'machine': node.machine,
            'uid': node.status.get('uid'), 'gid': node.status.get('gid'), 'keeps': job.keeps,
            'waiting': sent['waiting'], 'token': sent['token'],
            'came': sent['came'] if planned.to_send else 'there'}


def part_of_entry(entry):
    """Return the (job, node, waiting, token) that :func:`sent_entry` noted, None for what it cannot have noted.

    In between it was a variable: nothing goes into a command that is not what it has to be.
    """
    if not isinstance(entry, Mapping):
        return None
    names = ('kind', 'source', 'dest', 'sha256', 'machine', 'waiting', 'token', 'came')
    texts = {name: entry.get(name) for name in names}
    size, uid, gid, owner = (entry.get(name) for name in ('size', 'uid', 'gid', 'owner'))
    if not all(isinstance(text, str) and '\0' not in text for text in texts.values()) or texts['kind'] not in MODES:
        return None
    if not isinstance(size, int) or not all(isinstance(each, (int, type(None))) for each in (uid, gid)):
        return None
    if owner not in ('root', None):
        return None
    if not texts['dest'].startswith('/') or not re.fullmatch('[0-9a-f]{64}', texts['sha256']):
        return None
    if texts['waiting'] and not Delivery.is_waiting(texts['waiting'], texts['token']):
        return None
    artifact = SimpleNamespace(source=texts['source'], size=size, sha256=texts['sha256'])
    job = Job(artifact, texts['kind'], texts['dest'], MODES[texts['kind']], owner, owner, trial=False,
              keeps=entry.get('keeps') is True)
    status = {} if None in (uid, gid) else {'uid': uid, 'gid': gid}
    return job, SimpleNamespace(machine=texts['machine'], status=status), texts['waiting'], texts['token']


def failure_of(host, result):
    """Return what is said of a task that failed on the host, '' if it did not."""
    is_lost = isinstance(result, Mapping) and (result.get('failed') is True or result.get('unreachable') is True)
    return ' '.join(host_row(host, result, in_play=True)['problems']) if is_lost else ''


def known_of(host, result):
    """Return what a step before noted of the host; if it noted nothing, why."""
    known = result.get('k3s_artifact')
    files = known.get('files') if isinstance(known, Mapping) else None
    if not isinstance(files, list) or not all(isinstance(row, Mapping) and 'action' in row for row in files):
        return {'files': [], 'unreachable': result.get('unreachable') is True,
                'problems': [failure_of(host, result) or 'The step before noted nothing of this host.']}
    return {**known, 'files': [dict(row) for row in files], 'problems': list(known.get('problems') or [])}


# --- a host ----------------------------------------------------------------------------------------------------------


class Findings:
    """What is known of one host while a step runs: its files, and everything that stands in their way."""

    def __init__(self, host, known=None):
        self.host = host
        self.known = known or {
            'host': host, 'machine': '', 'arch': '', 'problems': [], 'warnings': [], 'unreachable': False,
            'directory': '', 'node_version': '', 'version': '', 'bytes_to_send': 0, 'free': None, 'left_out': [],
            'superseded': [], 'pruned': [], 'files': []}
        self.jobs = []
        self.parts = []  # (job, node, plan)
        self.packages = []  # the same, of the packages and last of their key
        self.backend = 'dnf4'  # what installs them, as ansible.builtin.dnf calls it

    @property
    def problems(self):
        return self.known['problems']

    def note(self, problem):
        text = plain(' '.join(to_text(problem).split()), LONGEST_PROBLEM)
        if text not in self.problems:
            self.problems.append(text)

    @contextlib.contextmanager
    def noted(self):
        """Note what goes wrong inside as a problem of the host, and go on after it."""
        try:
            yield
        except AnsibleConnectionFailure as error:
            self.known['unreachable'] = True
            self.note(f'{self.host} is unreachable: {to_text(error.message)}')
        except AnsibleError as error:
            self.note(error.message)
        except TemplateError as error:
            self.note(f'{self.host}: a variable cannot be evaluated: {error}')

    def row(self, dest):
        return next(row for row in self.known['files'] if row['dest'] == dest)

    def result(self, changed=False, **more):
        return wrap_var({'changed': changed, 'k3s_artifact': self.known, **more})


class ActionModule(ActionBase):

    NAME, STEPS = 'stage', ('look', 'send', 'place', 'check')

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self._vars = task_vars
        self._host = to_text(task_vars['inventory_hostname'])
        step, before = self._step()
        return getattr(self, f'_{step}')(*before)

    def _step(self):
        """Return the step that the task asks for and, in a list, the result of the step that it goes on from."""
        unknown = set(self._task.args) - {'step', 'of', 'reported', 'relays', 'served', 'installed'}
        step, name = self._task.args.get('step', 'look'), self._task.args.get('of')
        if unknown or step not in self.STEPS:
            raise AnsibleActionFail(f'{self.NAME} takes the options step, which is one of {", ".join(self.STEPS)}, of, '
                                    f'reported, relays, served and installed. It got {self._task.args!r}.')
        if step == 'look':
            return step, []
        if not name or not isinstance(self._vars.get(name), Mapping):  # as it is: what a node said could be a template
            raise AnsibleActionFail(f'{self._host}: the step {step} goes on from the result of the step before it, and '
                                    f'the variable {name!r} holds none. Give "of" the name that the task before '
                                    f'registers.')
        return step, [self._vars[name]]

    # --- look

    def _look(self):
        return self._found().result()

    def _found(self, machine=None):
        """Return the :class:`Findings` of the host: its files, one look at the node, and a plan for each file.

        machine: what the node said before that it is, if it was asked.
        """
        found = Findings(self._host)
        with found.noted():
            self._prepare(machine)
            found.known.update(machine=self._lookup.host.machine, arch=self._lookup.host.arch)
            self._find_files(found)
            self._look_at_node(found)
        return found

    def _prepare(self, machine):
        """Load and prepare the lookup for the host. Where nothing says what machine it is, it is asked."""
        self._lookup = lookup_loader.get(LOOKUP, loader=self._loader, templar=self._templar)
        if shell_of(self._connection).SHELL_FAMILY != 'sh':
            raise StagingError(f'{self._host}: stage needs a POSIX shell. Set ansible_shell_type: sh: what it runs it '
                               f'hands to sh, whatever shell the user has.')
        if becomes_unprivileged(self):
            raise StagingError(f'{self._host}: stage needs to be root or the user who logs in. Set '
                               f'k3s_artifact_become: false to stage as the user who logs in.')
        self._lookup.prepare(self._vars)
        mirror = mirror_of(self._host, self._lookup.setting, lambda: self._lookup.root)
        self._delivery = Delivery(self, self._host, self._lookup.arch_of, self._lookup.elf_arch, mirror)
        self._site = site_of(self._host, self._lookup.setting('k3s_artifact_site'))
        self._folder = os.path.dirname(self._path('k3s_artifact_dest', INSTALL_PATH))
        self._is_told = self._lookup.get_option('machine')
        if not self._lookup.knows_machine():
            machine = machine or self._delivery.look(Target(self._folder, 'script'))[0].machine
            self._lookup.prepare(self._vars, machine=machine)

    def _path(self, name, default):
        return checked_path(self._host, name, self._lookup.setting(name, default))

    def _switch(self, name, default):
        return checked_switch(self._host, name, self._lookup.setting(name, default))

    def _find_files(self, found):
        lookup = self._lookup
        with found.noted():
            trial, downgrade = self._switch('k3s_artifact_probe', True), self._switch('k3s_artifact_downgrade', False)
            keeps = self._switch('k3s_artifact_keep_previous', False)
            artifact = lookup.binary()
            found.known['version'] = artifact.version
            job = self._job(artifact, 'binary', self._path('k3s_artifact_dest', INSTALL_PATH))
            found.jobs.append(job._replace(trial=trial, downgrade=downgrade, keeps=keeps))
        with found.noted():
            artifact = lookup.script()
            if artifact:
                found.jobs.append(self._job(artifact, 'script', os.path.join(self._folder, INSTALL_SCRIPT_NAME)))
        with found.noted():
            folder = checked_path(self._host, *images_directory(lookup.setting))
            for path in k3s_artifact.choose_archives(lookup._offered()[0], lookup.host.archive_arch):
                with found.noted():
                    artifact = lookup.archive(path)
                    found.jobs.append(self._job(artifact, 'archive', os.path.join(folder, os.path.basename(path))))
            found.known['left_out'] = [[os.path.basename(path), why] for path, why in lookup.left_out()]
        self._packages = {}
        with found.noted():
            self._packages = self._newest_packages()
        with contextlib.suppress(AnsibleError):  # noted above
            beside = os.path.dirname(found.jobs[0].artifact.source) if found.jobs else ''
            found.known['directory'] = lookup.root or beside
        found.known['warnings'] = [misspelt(name, near) for name, near in k3s_artifact.misspelt(self._vars)]
        found.known['files'] = [file_row(job) for job in found.jobs]

    def _newest_packages(self):
        """Return (path, :class:`Package`) by name of the newest SELinux packages in the folders of the host."""
        newest = {}
        for folder in self._lookup._places():
            for name in filter(is_selinux_package, self._lookup._names_in(folder)):
                path = os.path.join(folder, name)
                try:
                    package = read_package(path)
                except k3s_artifact.ArtifactError as error:
                    raise StagingError(f'{self._host}: the package {path} {error}. Replace it, or take it out of the '
                                       f'folder.') from None
                if package.arch not in (None, self._lookup.host.archive_arch):
                    continue
                if package.name not in newest or is_newer(package, newest[package.name][1]):
                    newest[package.name] = path, package
        return newest

    def _look_for_packages(self, found):
        """Plan the packages that the node has not, or has in an older version, and the key that vouches for them."""
        if not self._packages:
            return
        there, result = self._delivery.ask(LOOK_FOR_PACKAGES, 'look for packages', names='\n'.join(self._packages),
                                           managers=' '.join(OTHER_MANAGERS),
                                           interpreter=str(self._lookup.setting('ansible_python_interpreter', '')))
        if 'end' not in there:
            raise StagingError(f'{self._host}: cannot look for packages on the node: {said(result)}. Run again.')
        if 'dnf' not in there:
            if 'manager' in there:
                found.known['warnings'].append(
                    f'{self._host} has {there["manager"][0]} and no dnf: {", ".join(sorted(self._packages))} are left '
                    f'out. Install them yourself.')
            return
        found.backend = 'dnf5' if there['dnf'] == ['dnf5'] else 'dnf4'
        has = {}
        for line in there.get('package', []):
            words = line.split(' ')
            if len(words) == 4:
                has[words[0]] = Package(words[0], *words[1:])
        wanted = []
        for name, (path, package) in sorted(self._packages.items()):
            verify = self._lookup.get_option('verify')
            artifact = k3s_artifact.verified_file(  # as the install script, the lists of K3s do not name it
                path, self._lookup.host, (os.path.basename(path),), 'auto' if verify == 'required' else verify,
                lambda *_file: [], self._lookup.root, 'script', self._lookup.keyring)
            job = self._job(artifact, 'package', f'{PACKAGES_FOLDER}/{os.path.basename(path)}')._replace(may_come=True)
            row = {**file_row(job), 'version': str(package)}
            found.known['files'].append(row)
            if name in has and not is_newer(package, has[name]):
                row.update(installed='same', action='nothing')
            else:
                row.update(installed='different' if name in has else 'absent',
                           action='replace' if name in has else 'install')
                wanted.append((job, row, package))
        if wanted:
            self._plan_packages(found, wanted, there)

    def _plan_packages(self, found, wanted, there):
        names = ', '.join(package.name for _job, _row, package in wanted)
        if there.get('user') != ['0']:
            raise StagingError(f'{self._host}: only root installs packages ({names}). Set k3s_artifact_become: true, '
                               f'or take them out of the artifact directory.')
        if 'python' not in there:
            raise StagingError(f'{self._host}: packages are installed with Python, and the node has none ({names}). '
                               f'Install it, or take them out of the artifact directory.')
        unsigned = [job.artifact.source for job, _row, package in wanted if not package.is_signed]
        if unsigned:
            raise StagingError(f'{self._host}: {", ".join(unsigned)}: the package is not signed, so nobody vouches for '
                               f'it. Take it from its publisher again, or sign it with rpmsign.')
        key = self._job(self._rpm_key(names), 'package', f'{PACKAGES_FOLDER}/key.asc')._replace(may_come=True)
        nodes = self._delivery.look(*(job.target for job, _row, _package in wanted), key.target)
        for job, node in zip([*(job for job, _row, _package in wanted), key], nodes):
            if self._is_told:
                node = node._replace(arch=job.artifact.arch)
            planned = self._delivery.plan(job, node._replace(free=None))
            if planned.refusal:
                raise StagingError(f'{self._host}: {planned.refusal}.')
            found.packages.append((job, node, planned))
            found.parts.append((job, node, planned))
            if job is not key:
                found.row(job.dest).update(bytes_to_send=planned.to_send, free=node.free)

    def _rpm_key(self, names):
        """Return the public key that signed the packages, a file of the controller, as an artifact."""
        key = self._lookup.setting('k3s_artifact_rpm_key')
        if not key or not isinstance(key, str) or '\0' in key:
            raise StagingError(f'{self._host}: {names} are to be installed, and k3s_artifact_rpm_key is '
                               f'{"not set" if not key else "no path"}. Set it to the file with the public key that '
                               f'signed them: without it nothing vouches for them, and the check is not switched off. '
                               f'Or take them out of the artifact directory.')
        places = (self._loader.path_dwim(key), os.path.abspath(os.path.expanduser(key)))
        path = next(filter(os.path.lexists, places), places[0])
        try:
            with k3s_artifact.opened(path) as (file, _status):
                if b'-----BEGIN PGP PUBLIC KEY BLOCK-----' not in file.read(k3s_artifact.MIB):
                    raise k3s_artifact.ArtifactError('holds no public key in the form that rpm takes (gpg --armor '
                                                     '--export)')
            return k3s_artifact.verified_file(path, self._lookup.host, (), 'none', None)
        except k3s_artifact.ArtifactError as error:
            raise StagingError(f'{self._host}: k3s_artifact_rpm_key {path} {error}. Set it to the file with the public '
                               f'key that signed the packages.') from None

    def _job(self, artifact, kind, dest):
        owner = 'root' if self._connection.become else None
        return Job(artifact, kind, dest, MODES[kind], owner, owner, trial=False)

    def _look_at_node(self, found):
        """Look at the node, also where no file was found for it: it may have problems of its own."""
        targets = [job.target for job in found.jobs] or [Target(self._folder, 'script')]
        if self._site:  # room for the files of its whole site
            folder = self._path('k3s_artifact_relay_dir', RELAY_DIRECTORY)
            targets.append(Target(os.path.join(folder, 'files'), 'script'))
        nodes = self._delivery.look(*targets)
        if self._site:
            found.known.update(site=self._site, relay_free=nodes.pop().free)
        for job, node in zip(found.jobs, nodes):
            if self._is_told:
                node = node._replace(arch=job.artifact.arch)
            with found.noted():
                planned = self._delivery.plan(job, node._replace(free=None))  # room is asked for all files together
                found.parts.append((job, node, planned))
                found.row(job.dest).update(file_row(job, node, planned))
                if job.kind == 'binary':
                    found.known['node_version'] = job.artifact.version if planned.installed == 'same' else node.version
                if planned.refusal:
                    raise StagingError(f'{self._host}: {planned.refusal}.')
        with found.noted():
            self._look_for_packages(found)
        beside = {name for _job, node, _planned in found.parts for name in node.beside}
        found.known['superseded'] = superseded(beside, image_names(found.known['files']))
        with found.noted():
            self._prune(found, only='look')
        for sentence in missing_room(found.parts):
            found.note(f'{self._host}: {sentence}.')
        free = [node.free for _job, node, _planned in found.parts if node.free is not None]
        to_send = sum(planned.to_send for _job, _node, planned in found.parts)
        found.known.update(free=min(free, default=None), bytes_to_send=to_send)

    # --- send

    def _send(self, looked):
        """Send what the plan says. Nothing is asked of a node that has everything, or that cannot be served."""
        known = known_of(self._host, looked)
        if self._task.check_mode or known['problems'] or all(row['action'] == 'nothing' for row in known['files']):
            return Findings(self._host, known).result(sent=[])
        self._is_relay = False
        found, sent = self._found(known.get('machine')), []
        if not found.problems:
            with found.noted():
                self._use_site()
        for job, node, planned in found.parts:
            if found.problems:
                break
            with found.noted():
                if job.kind == 'package':
                    if planned.action != 'nothing':
                        self._delivery.send_and_install(job, node, planned)
                else:
                    sent += self._sent(found, job, node, planned)
        *packages, key = [job.dest for job, _node, _planned in found.packages] or [None]
        for dest in packages:
            found.row(dest)['came'] = 'waiting'
        return found.result(sent=sent, packages=[] if found.problems else packages, packages_key=key,
                            packages_backend=found.backend, is_relay=self._is_relay)

    def _use_site(self):
        """Let the node fetch what a relay of its site has, and wait for its turn to use the link."""
        self._at_site, self._came_to_relay = Site(self._site, (), {}), {}
        names = [self._task.args.get(option) for option in ('relays', 'served')]
        if not self._site:
            return
        forks = self._lookup.setting('k3s_artifact_site_forks')
        if forks is not None:
            forks = count_of(self._host, 'k3s_artifact_site_forks', forks)
            self._delivery.turn = lambda: turn(self._site, forks)
        if all(names):
            digests, addresses, self._came_to_relay = found_at_site(self._vars, names, self._host, self._site)
            self._at_site = Site(self._site, digests, addresses)
        self._delivery.relays = self._at_site.addresses

    def _sent(self, found, job, node, planned):
        """Send one file; return the entries for the step "place", and note in the file's row how it came."""
        if planned.action == 'attributes':
            return [sent_entry(job, node, planned, {'waiting': '', 'token': '', 'came': 'there'})]
        found.row(job.dest)['came'] = 'there'
        if planned.action == 'nothing':
            return []
        with self._at_site.turn():
            sent = self._delivery.send(job, node, planned)
            self._serve_next(found, job, sent)
        own = sent['way'] == 'relay' and self._came_to_relay.get(job.artifact.sha256)
        sent['came'] = own or CAME[sent['way']]
        if not sent['waiting']:  # another run was faster
            return []
        found.row(job.dest)['came'] = 'waiting'
        printed = re.search(r'\bv[0-9][\w.+-]*', sent['version'])
        if printed:
            found.known['version'] = found.row(job.dest)['version'] = printed.group(0)
        return [sent_entry(job, node, planned, sent)]

    def _serve_next(self, found, job, sent):
        """Serve what this host was sent because the relay of its site has failed, to those that wait for their turn."""
        if not self._at_site.is_in_turn or not sent['waiting'] or CAME[sent['way']] == 'relayed':
            return
        self._is_relay = True
        try:
            relay = Relay(self._host, self._delivery, self._lookup.setting, self._vars.get('ansible_host'))
            self._at_site.serve(relay, job.artifact.sha256, Delivery.path_of_waiting(job, sent['waiting']))
        except (AnsibleError, ValueError) as error:
            display.warning(plain(f'{self._host} is no relay for its site: {to_text(error)}', LONGEST_PROBLEM))

    # --- place

    def _place(self, sent):
        found = Findings(self._host, known_of(self._host, sent))
        self._note_packages(found.note)
        if self._task.check_mode or found.problems:
            changes = found.known.get('pruned') or any(row['action'] != 'nothing' for row in found.known['files'])
            return found.result(changed=bool(changes) and not found.problems)
        entries = sent.get('sent')
        parts = [part_of_entry(entry) for entry in entries] if isinstance(entries, list) else [None]
        if None in parts:
            raise AnsibleActionFail(f'{self._host}: what the step send noted is not what it notes. Give "of" the name '
                                    f'that this task registers.')
        parts.sort(key=lambda part: PLACED.index(part[0].kind))
        came = {entry['dest']: entry['came'] for entry in entries}
        done, error, delivery = 0, None, Delivery(self, self._host, None, None)
        with found.noted():
            if parts:
                done, error = delivery.place(*parts)
        for job, *_rest in parts[:done]:
            found.row(job.dest)['came'] = came[job.dest]
        waited = [row for row in found.known['files'] if row.get('kind') == 'package' and row.get('came') == 'waiting']
        if waited:  # the playbook has installed them
            with found.noted():
                there, result = delivery.ask(FORGET_PACKAGES, f'remove {PACKAGES_FOLDER}', folder=PACKAGES_FOLDER)
                if 'kept' in there or 'end' not in there:
                    found.known['warnings'].append(
                        f'{self._host}: the packages are installed, and {PACKAGES_FOLDER} cannot be removed: '
                        f'{there.get("kept", [said(result)])[-1]}. Remove it.')
            for row in waited:
                row['came'] = 'pushed' if row.get('bytes_to_send') else 'there'
        if error:
            there, missing = (', '.join(job.dest for job, *_rest in some) for some in (parts[:done], parts[done:]))
            found.note(f'{error.message} Of this run it has {there or "nothing"}, and not {missing}.')
        elif found.problems:
            found.note(f'{self._host}: the connection broke while the files were put in place. Run again, which finds '
                       f'out what it has.')
        if not found.problems:
            with found.noted():
                self._prepare(found.known.get('machine'))
                self._prune(found)
        return found.result(changed=done > 0 or bool(found.known['pruned']))

    def _note_packages(self, note):
        """Note for the host if a task that installs its packages has failed there."""
        for name in self._task.args.get('installed') or ():
            said = failure_of(self._host, self._vars.get(name))
            if said:
                note(f'{self._host}: its SELinux packages are not installed, and nothing is put in place without them: '
                     f'{said}')

    def _prune(self, found, only=''):
        """Remove what the image archives of the host supersede, or with *only* "look" say what would be removed."""
        if not self._switch('k3s_artifact_prune', False):
            return
        new = image_names(found.known['files'])
        own, others = prunable(filter(None, map(to_text, found.known['superseded'])), new)
        found.known['pruned'] = []
        if not own and not others and (only or all(map(OWN_ARCHIVE.fullmatch, new))):
            return
        folder = checked_path(self._host, *images_directory(self._lookup.setting))
        what = f'remove what is no longer needed from {folder}'
        here = [name for name in new if not OWN_ARCHIVE.fullmatch(name)]
        values = {name: '\n'.join(names) for name, names in (('own', own), ('others', others), ('here', here))}
        found_there, result = self._delivery.ask(PRUNE, what, folder=folder, only=only, **values)
        if 'end' not in found_there:
            raise StagingError(f'{self._host}: cannot {what}: {said(result)}. Everything else is in place. Run again.')
        found.known['pruned'] = [name for name in found_there.get('pruned', []) if name in own or name in others]
        for entry in found_there.get('kept', []):
            found.note(f'{self._host}: an image archive in {folder} is no longer needed and cannot be removed, '
                       f'{entry}. Everything else is in place.')

    # --- check

    def _check(self, result):
        """Fail on a host that has problems, and on no other."""
        row = host_row(self._host, result, in_play=True)
        self._note_packages(row['problems'].append)
        if not row['problems']:
            return {'changed': False}
        verdict = 'unreachable' if row['unreachable'] else 'failed'
        shown = (boolean(self._task.args.get('reported', False), strict=False)
                 and is_for_people(C.DEFAULT_STDOUT_CALLBACK, context.CLIARGS))
        problems = row['problems']
        text = f'{counted(len(problems), "problem")}: see the report above.' if shown else ' '.join(problems)
        return wrap_var({'changed': False, verdict: True, 'msg': text})
