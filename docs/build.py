# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the site into build/docs/html: build.py, run by the Python that has what requirements.txt names.

There is one source of everything: the pages of this folder, CONTRIBUTING.md, CHANGELOG.rst and the documentation in the
plugins are put together in build/docs/source.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / 'build' / 'docs'
SOURCE, HTML, COLLECTIONS = BUILD / 'source', BUILD / 'html', BUILD / 'collections'
PROGRAMS = Path(sys.executable).parent


def run(program, *arguments):
    env = {**os.environ, 'ANSIBLE_COLLECTIONS_PATH': str(COLLECTIONS),
           'PATH': f'{PROGRAMS}{os.pathsep}{os.environ["PATH"]}'}
    subprocess.run([str(PROGRAMS / program), *map(str, arguments)], check=True, env=env)


def put_pages_together():
    """Make the source of the site anew, but for what antsibull-docs makes."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / 'docs', SOURCE, ignore=shutil.ignore_patterns('*.py[co]', '__pycache__', 'build.py'))
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    (SOURCE / 'contributing.md').write_text(text.replace('](docs/', '](').replace('](CHANGELOG.rst', '](changelog.rst'))
    shutil.copy(ROOT / 'CHANGELOG.rst', SOURCE / 'changelog.rst')


def document_plugins():
    """Have antsibull-docs write a page for each plugin into plugins/."""
    link = COLLECTIONS / 'ansible_collections' / 'airgap' / 'k3s'
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT)
    (SOURCE / 'plugins').mkdir()
    run('antsibull-docs', 'collection', '--use-current', '--squash-hierarchy', '--dest-dir', SOURCE / 'plugins',
        'airgap.k3s')
    for page in (SOURCE / 'plugins').glob('*.rst'):  # the theme has a table of contents of its own
        page.write_text(re.sub(r'^\.\. contents::\n(   .*\n)*', '', page.read_text(), flags=re.MULTILINE))


def main():
    put_pages_together()
    document_plugins()
    run('sphinx-build', '-W', '--keep-going', '-q', '-b', 'html', SOURCE, HTML)
    print(f'The site is in {HTML}/index.html')


if __name__ == '__main__':
    main()
