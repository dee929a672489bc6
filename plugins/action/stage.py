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

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display
from ansible.utils.unsafe_proxy import wrap_var
from jinja2 import TemplateError

from ansible_collections.airgap.k3s.plugins.action.copy import (
    ARCHIVE_SUFFIXES, CAME, IMAGES_DIRECTORY, INSTALL_PATH, INSTALL_SCRIPT_NAME, Delivery, Job, StagingError, Target,
    checked_path, checked_switch, mirror_of, plain)
from ansible_collections.airgap.k3s.plugins.action.relay import (
    RELAY_DIRECTORY, Relay, Site, count_of, found_at_site, site_of, turn)
from ansible_collections.airgap.k3s.plugins.action.report import host_row
from ansible_collections.airgap.k3s.plugins.lookup import k3s_artifact

display = Display()
LOOKUP = 'airgap.k3s.k3s_artifact'
lookup_loader.get(LOOKUP, class_only=True)  # once in Ansible's own process, not again in that of each host

STEPS = ('look', 'send', 'place', 'check')
DATA_DIRECTORY = '/var/lib/rancher/k3s'
MODES = {'binary': '0755', 'script': '0755', 'archive': '0644'}
# A K3s that is restarted between two renames finds the images of both releases, and the new binary only with its own.
PLACED = ('archive', 'script', 'binary')
RELEASED_ARCHIVE = 'k3s-airgap-images-'
ARTIFACT_FIELDS = ('source', 'size', 'sha256', 'verified', 'version')
LONGEST_PROBLEM = 4000  # characters


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


def misspelt(name, near):
    """Return a warning for a variable that is called like ours and is none; *near* is the one that it resembles."""
    return f'{name} is no variable of this collection.' + (f' Perhaps {near} was meant.' if near else '')


def file_row(job, node=None, planned=None):
    """Return what a report says of one file."""
    row = {'kind': job.kind, 'dest': job.dest, 'installed': '', 'action': '', 'bytes_to_send': 0, 'came': '',
           'free': None, **{name: getattr(job.artifact, name) for name in ARTIFACT_FIELDS}}
    if planned:
        row.update(installed=planned.installed, action=planned.action, bytes_to_send=planned.to_send, free=node.free)
    return row


def sent_entry(job, node, planned, sent):
    """Return what the step "place" has to know of a file that waits on the node, or whose attributes are to be set."""
    return {'kind': job.kind, 'source': job.artifact.source, 'dest': job.dest, 'size': job.artifact.size,
            'sha256': job.artifact.sha256, 'owner': job.owner, 'machine': node.machine,
            'uid': node.status.get('uid'), 'gid': node.status.get('gid'),
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
    job = Job(artifact, texts['kind'], texts['dest'], MODES[texts['kind']], owner, owner, trial=False)
    status = {} if None in (uid, gid) else {'uid': uid, 'gid': gid}
    return job, SimpleNamespace(machine=texts['machine'], status=status), texts['waiting'], texts['token']


def known_of(result):
    """Return what a step before noted of the host."""
    known = result.get('k3s_artifact')
    files = known.get('files') if isinstance(known, Mapping) else None
    if not isinstance(files, list) or not all(isinstance(row, Mapping) and 'action' in row for row in files):
        return {'files': [], 'problems': ['The step before noted nothing of this host.']}
    return {**known, 'files': [dict(row) for row in files], 'problems': list(known.get('problems') or [])}


# --- a host ----------------------------------------------------------------------------------------------------------


class Findings:
    """What is known of one host while a step runs: its files, and everything that stands in their way."""

    def __init__(self, host, known=None):
        self.host = host
        self.known = known or {
            'host': host, 'machine': '', 'arch': '', 'problems': [], 'warnings': [], 'unreachable': False,
            'directory': '', 'node_version': '', 'version': '', 'bytes_to_send': 0, 'free': None, 'left_out': [],
            'superseded': [], 'files': []}
        self.jobs = []
        self.parts = []  # (job, node, plan)

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

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self._vars = task_vars
        self._host = to_text(task_vars['inventory_hostname'])
        step, before = self._step()
        return getattr(self, f'_{step}')(*before)

    def _step(self):
        """Return the step that the task asks for and, in a list, the result of the step that it goes on from."""
        unknown = set(self._task.args) - {'step', 'of', 'relays', 'served'}
        step, name = self._task.args.get('step', 'look'), self._task.args.get('of')
        if unknown or step not in STEPS:
            raise AnsibleActionFail(f'stage takes the options step, which is one of {", ".join(STEPS)}, of, relays and '
                                    f'served. It got {self._task.args!r}.')
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
        if self._connection._shell.SHELL_FAMILY != 'sh' or self._is_become_unprivileged():
            raise StagingError(f'{self._host}: stage needs a POSIX shell, and root or the user who logs in. Set '
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
            artifact = lookup.binary()
            found.known['version'] = artifact.version
            job = self._job(artifact, 'binary', self._path('k3s_artifact_dest', INSTALL_PATH))
            found.jobs.append(job._replace(trial=trial, downgrade=downgrade))
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
        with contextlib.suppress(AnsibleError):  # noted above
            beside = os.path.dirname(found.jobs[0].artifact.source) if found.jobs else ''
            found.known['directory'] = lookup.root or beside
        found.known['warnings'] = [misspelt(name, near) for name, near in k3s_artifact.misspelt(self._vars)]
        found.known['files'] = [file_row(job) for job in found.jobs]

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
        beside = {name for _job, node, _planned in found.parts for name in node.beside}
        new = [os.path.basename(job.dest) for job in found.jobs if job.kind == 'archive']
        found.known['superseded'] = superseded(beside, new)
        for sentence in missing_room(found.parts):
            found.note(f'{self._host}: {sentence}.')
        free = [node.free for _job, node, _planned in found.parts if node.free is not None]
        to_send = sum(planned.to_send for _job, _node, planned in found.parts)
        found.known.update(free=min(free, default=None), bytes_to_send=to_send)

    # --- send

    def _send(self, looked):
        """Send what the plan says. Nothing is asked of a node that has everything, or that cannot be served."""
        known = known_of(looked)
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
                sent += self._sent(found, job, node, planned)
        return found.result(sent=sent, is_relay=self._is_relay)

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
        found = Findings(self._host, known_of(sent))
        if self._task.check_mode or found.problems:
            changes = any(row['action'] != 'nothing' for row in found.known['files'])
            return found.result(changed=changes and not found.problems)
        entries = sent.get('sent')
        parts = [part_of_entry(entry) for entry in entries] if isinstance(entries, list) else [None]
        if None in parts:
            raise AnsibleActionFail(f'{self._host}: what the step send noted is not what it notes. Give "of" the name '
                                    f'that this task registers.')
        parts.sort(key=lambda part: PLACED.index(part[0].kind))
        came = {entry['dest']: entry['came'] for entry in entries}
        done, error = 0, None
        with found.noted():
            if parts:
                done, error = Delivery(self, self._host, None, None).place(*parts)
        for job, *_rest in parts[:done]:
            found.row(job.dest)['came'] = came[job.dest]
        if error:
            there, missing = (', '.join(job.dest for job, *_rest in some) for some in (parts[:done], parts[done:]))
            found.note(f'{error.message} Of this run it has {there or "nothing"}, and not {missing}.')
        elif found.problems:
            found.note(f'{self._host}: the connection broke while the files were put in place. Run again, which finds '
                       f'out what it has.')
        return found.result(changed=done > 0)

    # --- check

    def _check(self, result):
        """Fail on a host that has problems, and on no other."""
        row = host_row(self._host, result, in_play=True)
        if not row['problems']:
            return {'changed': False}
        verdict = 'unreachable' if row['unreachable'] else 'failed'
        return wrap_var({'changed': False, verdict: True, 'msg': ' '.join(row['problems'])})
