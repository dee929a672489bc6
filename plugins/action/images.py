# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare what is in the image archives of a host with what K3s has imported there. Changes nothing.

Documented in plugins/modules/images.py. What a host is said to be, and the step check, are those of stage.
"""

from __future__ import annotations

import os
import re
import tarfile
import time
from collections.abc import Mapping

from ansible_collections.airgap.k3s.plugins.action import stage
from ansible_collections.airgap.k3s.plugins.action.copy import (
    COMMON, INSTALL_PATH, StagingError, Target, checked_path, said)
from ansible_collections.airgap.k3s.plugins.lookup.k3s_artifact import (
    DAMAGE, LOOK_SECONDS, MEMBER_LIMIT, Clocked, NotThisFormat, choose_archives, once_per_run, opened,
    parse_json, unpacked)

SHOWN = 8  # images that a sentence names
LONGEST_LIST = 1 << 20  # bytes of what K3s lists

# list: takes dest, the K3s of the node; most, the bytes that are read of its list; limit: seconds
#   answers code and reason of what failed, image ("name|platforms") for each that there is
LIST = COMMON + r'''
at "$dest"
export most files
guarded sh -c 'list=$("$0" ctr images list 2>&1) || { printf "%s\n" "$list" | tail -n 3; exit 1; }
    printf "%s\n" "$list" | while read -r ref type digest size unit platforms rest; do
        printf "%s|%s\n" "$ref" "$platforms"
    done' "$dest"
set -f
if [ "$code" = 0 ]; then for i in $out; do say image "$i"; done; else say reason "$out"; fi
say code "$code"
say end yes
'''


# --- what is in an archive -------------------------------------------------------------------------------------------


def names_in(file, path):
    """Return the names of the images in the open archive *file*, or the half of a sentence on why that is not known."""
    head, found = file.read(512), {}
    file.seek(0)
    try:
        with unpacked(file, path, head) as stream:
            if stream is None:
                return 'cannot be looked into: this controller has no program that unpacks it'
            with tarfile.open(fileobj=Clocked(stream, time.monotonic() + LOOK_SECONDS), mode='r|') as tar:
                for member in tar:
                    name = member.name.removeprefix('./')
                    if name in ('manifest.json', 'index.json') and member.isreg() and member.size <= MEMBER_LIMIT:
                        found[name] = parse_json(tar.extractfile(member).read())
    except (NotThisFormat, TimeoutError, EOFError, OSError, tarfile.TarError, *DAMAGE) as error:
        return f'cannot be looked into ({error or type(error).__name__})'
    return sorted(set(names_of_index(found.get('index.json')) or names_of_manifest(found.get('manifest.json'))))


def names_of_index(index):
    """Yield the names in the index of an OCI archive: containerd takes the first of two annotations, as it is."""
    entries = index.get('manifests') if isinstance(index, Mapping) else None
    annotations = [entry.get('annotations') for entry in entries if isinstance(entry, Mapping)] if isinstance(
        entries, list) else []
    names = [each.get('io.containerd.image.name') or each.get('org.opencontainers.image.ref.name')
             for each in annotations if isinstance(each, Mapping)]
    return [name for name in names if isinstance(name, str)]


def names_of_manifest(manifest):
    """Return the names in the manifest of a docker archive, in full, as containerd imports them."""
    images = manifest if isinstance(manifest, list) else []
    tags = [image.get('RepoTags') for image in images if isinstance(image, Mapping)]
    return [full_name(tag) for each in tags if isinstance(each, list) for tag in each if isinstance(tag, str)]


def full_name(name):
    """Return the name of an image with registry and tag: docker.io/library/busybox:latest for busybox.

    Source: github.com/distribution/reference, ParseDockerRef.
    """
    first, slash, _rest = name.partition('/')
    if not slash or not (re.search('[.:]', first) or first == 'localhost'):
        name = f'docker.io/{name}' if slash else f'docker.io/library/{name}'
    return name if '@' in name or ':' in name.rpartition('/')[2] else f'{name}:latest'


# --- the comparison --------------------------------------------------------------------------------------------------


def listed(entries):
    """Return the platforms by name of the images that K3s lists: entries "name|platform,platform"."""
    pairs = (entry.partition('|') for entry in entries)
    return {name: [] if platforms in ('', '-') else platforms.split(',') for name, _bar, platforms in pairs}


def compared(names, there, platform):
    """Return (state, missing, elsewhere) for an archive.

    there: what :func:`listed` returns. A variant after the platform counts for nothing: K3s says linux/arm/v7.
    """
    missing = [name for name in names if name not in there]
    elsewhere = [f'{name} ({", ".join(there[name]) or "no platform"})' for name in names if name in there
                 and platform not in ['/'.join(each.split('/')[:2]) for each in there[name]]]
    state = 'not imported' if names and missing == names else 'partly' if missing or elsewhere else 'imported'
    return state, missing, elsewhere


def some(names):
    more = len(names) - SHOWN
    return ', '.join(names[:SHOWN]) + (f' and {more} more' if more > 0 else '')


def sentences(dest, names, state, missing, elsewhere, platform):
    """Yield what is wrong with the images of the archive at *dest*, without the host's name."""
    again = ('K3s imports an archive when it starts, and when the file changes: look into its log (journalctl -u k3s, '
             '-u k3s-agent), and restart it')
    if state == 'not imported':
        yield f'K3s has not imported {dest}: none of its {len(names)} images is there. {again}'
    elif missing:
        yield f'{len(missing)} of the {len(names)} images in {dest} are missing: {some(missing)}. {again}'
    if elsewhere:
        yield (f'images in {dest} are there for another platform, not for {platform}: {some(elsewhere)}. Remove them '
               f'(k3s ctr images rm), take archives of other architectures out of the folder, and restart K3s')


class ActionModule(stage.ActionModule):

    NAME, STEPS = 'images', ('look', 'check')

    def _look(self):
        found = stage.Findings(self._host)
        with found.noted():
            self._prepare(None)
            host = self._lookup.host
            found.known.update(machine=host.machine, arch=host.arch, directory=self._lookup.root or '')
            archives = self._archives(found)
            if archives:
                self._compare(found, archives)
            elif not found.problems:
                found.note(f'{self._host}: there is no image archive for it in {found.known["directory"]}, so there is '
                           f'nothing to compare. Set k3s_artifact_dir to the folder that was staged.')
        return found.result()

    def _archives(self, found):
        """Return (job, the names of its images) for each image archive of the host."""
        folder, archives = checked_path(self._host, *stage.images_directory(self._lookup.setting)), []
        for path in choose_archives(self._lookup._offered()[0], self._lookup.host.archive_arch):
            with found.noted():
                job = self._job(self._lookup.archive(path), 'archive', os.path.join(folder, os.path.basename(path)))
                found.known['files'].append(stage.file_row(job))
                archives.append((job, self._names(path)))
        return archives

    @staticmethod
    def _names(path):
        with opened(path) as (file, status):
            return once_per_run(path, status, 'names', lambda: names_in(file, path))

    def _compare(self, found, archives):
        dest = self._path('k3s_artifact_dest', INSTALL_PATH)
        *nodes, binary = self._delivery.look(*(job.target for job, _names in archives),
                                             Target(dest, 'binary', trial=self._switch('k3s_artifact_probe', True)))
        found.known['node_version'] = found.known['version'] = binary.version
        there = self._listed(dest)
        platform = self._lookup.host.platform
        for (job, names), node in zip(archives, nodes):
            planned = self._delivery.plan(job, node)
            row = found.row(job.dest)
            row.update(installed=planned.installed, action='nothing', free=node.free)
            if planned.installed != 'same':
                row['came'] = 'not staged'
                found.note(f'{self._host}: {job.dest} is not the archive {job.artifact.source} ({planned.installed}). '
                           f'Run airgap.k3s.stage first.')
            elif isinstance(names, str) or not names:
                row['came'] = 'unknown'
                found.known['warnings'].append(f'{job.artifact.source} {names or "holds images without a name"}. Its '
                                               f'images are not compared.')
            else:
                state, missing, elsewhere = compared(names, there, platform)
                row.update(came=state, missing=missing, elsewhere=elsewhere)
                for sentence in sentences(job.dest, names, state, missing, elsewhere, platform):
                    found.note(f'{self._host}: {sentence}.')

    def _listed(self, dest):
        """Return the platforms by name of the images that the K3s of the node has."""
        there, result = self._delivery.ask(LIST, 'list the images of K3s', most=LONGEST_LIST, files=1024,
                                           **Target(dest, 'binary').variables())
        code, reason = there.get('code', [''])[-1], there.get('reason', [''])[-1]
        if 'end' not in there or code != '0':
            raise StagingError(f'{self._host}: K3s does not list its images ({dest} ctr images list): '
                               f'{reason or said(result)}. Start K3s first; it needs root.')
        return listed(there.get('image', []))
