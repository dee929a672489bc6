# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the binary back that an upgrade has kept: look, place, finish, and check whether the play may go on.

Documented in plugins/modules/rollback.py. A look, and what a host is said to be, are those of stage.
"""

from __future__ import annotations

import re

from ansible_collections.airgap.k3s.plugins.action import stage
from ansible_collections.airgap.k3s.plugins.action.copy import (
    COMMON, FAIL, INSTALL_PATH, PREVIOUS, StagingError, Target, said)

# What K3s's manual asks for: https://docs.k3s.io/upgrades/roll-back
ADVICE = ('K3s goes on running from the old file until it is restarted. It does not support going back across a change '
          'of its datastore: to go back to an earlier minor version, stop K3s on all nodes (k3s-killall.sh), restore '
          'the copy or snapshot of the datastore that was made under that version (embedded etcd: k3s server '
          '--cluster-reset --cluster-reset-restore-path=<snapshot>), and start it again. Without such a copy there is '
          'no way back: https://docs.k3s.io/upgrades/roll-back')

# What was put back is noted until that is done on all hosts: a run that was cut off is completed by the next one. After
# a day the note is nobody's, as a partial file is.
NOTE = r'''
note=$dir/.k3s-artifact.$base.back
'''
# noted: takes dest; answers back, the digest that was put back
NOTED = COMMON + 'at "$dest"\n' + NOTE + r'''
[ ! -f "$note" ] || say back "$(head -c 64 "$note")"
say end yes
'''
# back: takes dest and sha256, that of the file that look found; answers what describe says, or failed (gone,
# directory, note, rename) and reason
BACK = COMMON + FAIL + NOTE + r'''
trap '' HUP PIPE
[ -f "$dest.previous" ] && digest "$dest.previous" && [ "$d" = "$sha256" ] || fail gone
[ ! -d "$dest" ] || fail directory
e=$( { printf '%s\n' "$sha256" >"$note.$$" && mv -f "$note.$$" "$note"; } 2>&1) || fail note "$e"
# Two links of one file, where an upgrade was cut off, are nothing to rename.
if [ "$dest.previous" -ef "$dest" ] && [ ! -L "$dest.previous" ] && [ ! -L "$dest" ]; then
    e=$(rm -f "$dest.previous" 2>&1) || fail rename "$e"
else e=$(mv -f "$dest.previous" "$dest" 2>&1) || fail rename "$e"
fi
sync "$dir" 2>/dev/null || sync
if command -v restorecon >/dev/null 2>&1; then guarded restorecon "$dest"; fi
describe
say end yes
'''
# forget: takes dest
FORGET = COMMON + 'at "$dest"\n' + NOTE + r'''
rm -f "$note" "$note".*
say end yes
'''


def file_row(dest, kept, there):
    """Return what a report says of the binary that is put back: *kept* and *there* are the nodes of the two paths."""
    installed = there.kind if there.kind != 'file' else 'same' if there.sha256 == kept.sha256 else 'different'
    return {'kind': 'binary', 'dest': dest, 'source': '', 'size': kept.status.get('size') or 0,
            'sha256': kept.sha256 or '', 'verified': ['k3s --version'] if kept.version else [], 'version': kept.version,
            'installed': installed, 'action': 'replace' if there.kind != 'absent' else 'install', 'bytes_to_send': 0,
            'came': '', 'free': there.free, 'previous': dest + PREVIOUS}


def obstacles(dest, kept, there, is_tried):
    """Yield a sentence without the host's name for each reason why the binary cannot be put back, and what to do."""
    previous = dest + PREVIOUS
    if kept.kind not in ('file', 'link') or not kept.sha256:
        yield f'{previous} is no file ({kept.kind}). Put the older binary there, or stage its release'
        return
    if kept.holds != kept.arch:
        yield (f'{previous} is a program for {kept.holds or "no machine that is known"}, and the node is {kept.arch}. '
               f'Stage the older release instead')
    elif is_tried and not kept.version:
        yield (f'{previous} does not run there: it names no release of K3s when it is asked (k3s --version). Stage the '
               f'older release instead')
    if there.kind in ('directory', 'other'):
        yield f'{dest} is no file ({there.kind}). Remove it'
    if not there.writable:
        yield f'the user {there.user} cannot write to the folder of {dest} on the node. Use become: true'
    for path, node in ((dest, there), (previous, kept)):
        if node.fixed and node.is_root and node.kind == 'file':
            yield f'{path} cannot be renamed: it is immutable. Take that attribute away (chattr -i)'


class ActionModule(stage.ActionModule):

    NAME, STEPS = 'rollback', ('look', 'place', 'finish', 'check')

    def _look(self):
        found = stage.Findings(self._host)
        with found.noted():
            self._prepare(None)
            known = found.known
            known.update(machine=self._lookup.host.machine, arch=self._lookup.host.arch, warnings=[ADVICE])
            dest, is_tried = self._path('k3s_artifact_dest', INSTALL_PATH), self._switch('k3s_artifact_probe', True)
            paths = (dest + PREVIOUS, dest)
            kept, there = self._delivery.look(*(Target(path, 'binary', trial=is_tried) for path in paths))
            if self._is_told:
                kept = kept._replace(arch=self._lookup.host.arch)
            known['node_version'] = there.version
            if kept.kind == 'absent':
                known['files'] = [self._put_back_before(dest, there)]
                known['version'] = there.version
            else:
                known['files'], known['version'] = [file_row(dest, kept, there)], kept.version
                for sentence in obstacles(dest, kept, there, is_tried):
                    found.note(f'{self._host}: {sentence}.')
        return found.result()

    def _put_back_before(self, dest, there):
        """Return the row of a binary that a run before this one has put back; raise where that is not so."""
        back = self._program(NOTED, {'dest': dest}, f'look what was put back at {dest}').get('back', [''])[-1]
        if not there.sha256 or there.sha256 != back:
            raise StagingError(f'{self._host}: nothing is at {dest}{PREVIOUS}, so there is no binary to go back to. '
                               f'k3s_artifact_keep_previous: true keeps the one that an upgrade replaces. Stage the '
                               f'older release with k3s_artifact_downgrade: true instead.')
        return {**file_row(dest, there, there), 'action': 'nothing', 'came': 'there', 'previous': ''}

    def _program(self, program, values, what):
        """Run a shell program of this file for the paths in *values*; return its answers."""
        found, result = self._delivery.ask(program, what, **{**Target(values['dest'], 'binary').variables(), **values})
        if 'end' not in found and 'failed' not in found:
            raise StagingError(f'{self._host}: cannot {what} on the node: {said(result)}. Run again.')
        return found

    def _place(self, sent):
        found = stage.Findings(self._host, stage.known_of(self._host, sent))
        rows = [row for row in found.known['files'] if row['action'] != 'nothing']
        if self._task.check_mode or found.problems or not rows:
            return found.result(changed=bool(rows) and not found.problems)
        with found.noted():
            self._prepare(found.known.get('machine'))
            self._put_back(rows[0])
        return found.result(changed=not found.problems)

    def _put_back(self, row):
        dest = self._path('k3s_artifact_dest', INSTALL_PATH)
        values = {'dest': dest, 'sha256': str(row.get('sha256'))}
        if not re.fullmatch('[0-9a-f]{64}', values['sha256']):
            raise StagingError(f'{self._host}: what the step look noted is not what it notes. Give "of" the name that '
                               f'that task registers.')
        found = self._program(BACK, values, f'put {dest}{PREVIOUS} back')
        if 'end' in found:
            row['came'] = 'there'
            return
        kind, reason = found['failed'][-1], found.get('reason', [''])[-1]
        raise StagingError(f'{self._host}: ' + {
            'gone': f'{dest}{PREVIOUS} was changed or taken away since it was looked at. Run again',
            'directory': f'{dest} has become a directory',
        }.get(kind, f'{dest}{PREVIOUS} cannot be put back: {reason}. Put that right and run again') + '.')

    def _finish(self, placed):
        found = stage.Findings(self._host, stage.known_of(self._host, placed))
        if not self._task.check_mode and not found.problems:
            with found.noted():
                self._prepare(found.known.get('machine'))
                self._program(FORGET, {'dest': self._path('k3s_artifact_dest', INSTALL_PATH)}, 'forget what was noted')
        return found.result()
