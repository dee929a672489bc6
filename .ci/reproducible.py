# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a .tar.gz anew: its bytes come from its files alone, and not from when, where and by whom it was built.

    reproducible.py [TARBALL]    without a tarball, print the time that is used: SOURCE_DATE_EPOCH, else the last
    commit's

ansible-galaxy does not know SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/).
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile


def epoch():
    """Return the time of the source in seconds; where nothing tells it, the first that a wheel can have: 1980."""
    given = os.environ.get('SOURCE_DATE_EPOCH')
    if given:
        return int(given)
    done = subprocess.run(['git', 'log', '-1', '--format=%ct'], cwd=os.path.dirname(os.path.abspath(__file__)),
                          capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 315532800


def rewrite(path):
    """Put the tarball at *path* in order: members by name, one owner, one time."""
    time = epoch()
    with tarfile.open(path) as old, open(path + '.new', 'wb') as file, \
            gzip.GzipFile(filename='', mode='wb', fileobj=file, mtime=time) as packed, \
            tarfile.open(fileobj=packed, mode='w', format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, '', ''
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    os.replace(path + '.new', path)


if __name__ == '__main__':
    if len(sys.argv) == 2:
        rewrite(sys.argv[1])
    else:
        print(epoch())
