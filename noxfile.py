# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is checked with which ansible-core and Python. `nox -l` lists it; what follows -- goes to the program that runs.

Which ones are supported says pyproject.toml, [tool.k3s-artifact.cores], and nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / 'tests'))

import pages  # noqa: E402 (it is a module of the tests, which the line above makes known)

BUILD = ROOT / 'build'
RECORDS = BUILD / 'matrix'  # what `tests` leaves for `table`, one file for each row
PROJECT = nox.project.load_toml('pyproject.toml')
CORES = PROJECT['tool']['k3s-artifact']['cores']
ROWS = [(python, core) for core, pythons in CORES.items() for python in pythons]
# What ansible-test asks of a module differs from core to core, and not from Python to Python: the newest has all of it.
NEWEST = [(pythons[-1], core) for core, pythons in CORES.items()]

# ansible-test makes empty environments of its own, and would download from Ansible's servers what puts pip into them.
# Python has that already.
BOOTSTRAP = """\
import subprocess
import sys

subprocess.run([sys.executable, '-m', 'ensurepip'], check=True, stdout=subprocess.DEVNULL)
subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', *(one for one in sys.argv[1:] if '==' in one)],
               check=True)
"""

nox.options.envdir = str(BUILD / 'nox')
nox.options.sessions = ['lint']
nox.options.error_on_missing_interpreters = True


def with_pythons(path):
    """Return PATH with each Python that pyenv or .ci/python has installed, and without pyenv's shims.

    A shim runs only those that pyenv's own settings switch on, and is there for the others as well.
    """
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'))
    kept = [folder for folder in path.split(os.pathsep) if Path(folder) != pyenv / 'shims']
    installed = [*sorted(pyenv.glob('versions/*/bin')), *sorted(BUILD.glob('python/*/bin'))]
    return os.pathsep.join([*kept, *map(str, installed)])


os.environ['PATH'] = with_pythons(os.environ['PATH'])


def cores(rows):
    """Return the decorator that makes a session for each of *rows*, named after ansible-core and Python."""
    return nox.parametrize('python,core', [nox.param(python, core, id=f'{core}, {python}') for python, core in rows])


def install(session, *groups, core=None):
    """Install dependency groups of pyproject.toml, and ansible-core."""
    session.install(*nox.project.dependency_groups(PROJECT, *groups), *([f'ansible-core~={core}.0'] if core else []))


def collection(session, core):
    """Lay the files that git knows as ansible-test wants them; return that folder, and the environment for it."""
    home = BUILD / 'ansible-test' / f'{core}-{session.python}'
    place = home / 'ansible_collections' / 'airgap' / 'k3s'
    shutil.rmtree(place, ignore_errors=True)
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split('\0')):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    for arguments in (['init', '--quiet'], ['add', '--all']):  # ansible-test asks git which files there are
        subprocess.run(['git', *arguments], cwd=place, check=True)
    # ansible-test hands pip no environment: it reads the settings of the person who runs it.
    settings, own = Path.home() / '.config' / 'pip', home / '.config' / 'pip'
    own.parent.mkdir(exist_ok=True)
    if settings.exists() and not own.exists():
        own.symlink_to(settings)
    return place, {'HOME': str(home)}


def bootstrap(session, home):
    """Put :data:`BOOTSTRAP` where ansible-test keeps the script that it has downloaded for the pip that it takes."""
    version = session.run('python', '-c', 'from ansible_test._internal import python_requirements as found\n'
                          'from types import SimpleNamespace as Python\n'
                          f'print(found.get_venv_packages(Python(version="{session.python}"))["pip"])',
                          silent=True).strip()
    script = Path(home) / '.ansible' / 'test' / 'cache' / f'get_pip_{version.replace(".", "_")}.py'
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(BOOTSTRAP)


def counted(record):
    """Return what pytest wrote into a file in JUnit's format: tests that passed, tests that did not, seconds."""
    suite = ElementTree.parse(record).getroot().find('testsuite').attrib
    failed = int(suite['failures']) + int(suite['errors'])
    return int(suite['tests']) - failed - int(suite['skipped']), failed, float(suite['time'])


@nox.session
@cores(ROWS)
def tests(session, core):
    """All tests that need no root; what follows -- names some of them."""
    install(session, 'test', core=core)
    session.run('python', '-m', 'pytest', '-n', 'auto', '--dist', 'loadfile', '-q',
                f'--junitxml={RECORDS}/{core}-{session.python}.xml', *(session.posargs or ()))


@nox.session(python=False)
def table(session):
    """Print what `tests` found, in one table."""
    print(f'\n{"ansible-core":<14}{"Python":<8}{"passed":>8}{"failed":>8}{"seconds":>9}')
    bad = 0
    for python, core in ROWS:
        record = RECORDS / f'{core}-{python}.xml'
        if not record.exists():
            print(f'{core:<14}{python:<8}{"did not run":>16}')
            bad += 1
            continue
        passed, failed, seconds = counted(record)
        print(f'{core:<14}{python:<8}{passed:>8}{failed:>8}{seconds:>9.0f}')
        bad += failed > 0 or not passed
    if bad:
        session.error(f'{bad} of {len(ROWS)} rows did not pass.')


@nox.session
@cores(NEWEST)
def sanity(session, core):
    """ansible-test sanity, without an ignore file."""
    install(session, core=core)
    place, env = collection(session, core)
    bootstrap(session, env['HOME'])
    with session.chdir(place):
        session.run('ansible-test', 'sanity', '--color', 'no', *session.posargs, env=env)


@nox.session
@cores(NEWEST)
def units(session, core):
    """ansible-test units."""
    own = f'unit-{core.replace(".", "-")}'
    install(session, own if own in PROJECT['dependency-groups'] else 'unit', core=core)
    place, env = collection(session, core)
    with session.chdir(place):
        session.run('ansible-test', 'units', '--color', 'no', '--python', session.python, *session.posargs, env=env)
    # It is content with a run that ended before its first test.
    ran = [counted(record)[0] for record in (place / 'tests' / 'output' / 'junit').glob('*.xml')]
    if not any(ran):
        session.error('No test ran.')


def lintable_blocks():
    """Write each block of YAML in the pages into a file that ansible-lint takes for what it is; return the files."""
    folder, files = BUILD / 'pages', []
    shutil.rmtree(folder, ignore_errors=True)
    for page in pages.PAGES:
        for number, (_language, text) in enumerate(pages.blocks(page, 'yaml')):
            kind = 'vars' if not text.startswith('- ') else 'playbooks' if '\n  hosts:' in text else 'tasks'
            files.append(folder / kind / f'{page.stem.lower()}_{number}.yml')
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            files[-1].write_text(f'---\n{text}')
    return [file.relative_to(ROOT) for file in files]


@nox.session
def lint(session):
    """Ruff, mypy on the pure parts, the changelog's fragments, and ansible-lint's production profile, pages and all."""
    install(session, 'lint')
    session.run('ruff', 'check')
    session.run('mypy')
    session.run('antsibull-changelog', 'lint')
    session.run('antsibull-changelog', 'lint-changelog-yaml', '--strict', 'changelogs/changelog.yaml')
    for files in ((), lintable_blocks()):
        session.run('ansible-lint', '--offline', '--profile', 'production', *map(str, files),
                    env={'ANSIBLE_COLLECTIONS_PATH': str(BUILD / 'collections')})
