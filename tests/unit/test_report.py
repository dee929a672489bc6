# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the report makes of the results of all hosts: rows, table, JSON and Markdown."""

from __future__ import annotations

import json
import os
import re
import stat
import unicodedata

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import connection_loader
from ansible.utils.unsafe_proxy import wrap_var
from hypothesis import given, settings
from hypothesis import strategies as st

import support

report = support.collection_module('plugins.action.report')
documentation = support.collection_module('plugins.modules.report')
PAGE = (support.ROOT / 'docs' / 'report.md').read_text()

DIGEST = '0c043f8f77dbeee3c4b51aa54811506b28c7b74401710468dccbf0f396ac0f93'
NO_ROUTE = 'connect to host 10.0.0.9 port 22: No route to host'


def file(**fields):
    return {
        'kind': 'binary',
        'source': '/srv/airgap/arm64/k3s-arm64',
        'dest': '/usr/local/bin/k3s',
        'size': 68157440,
        'sha256': DIGEST,
        'verified': ['ELF header', 'sha256sum-arm64.txt'],
        'version': 'v1.31.4+k3s1',
        'installed': 'different',
        'action': 'replace',
        'bytes_to_send': 68157440,
        'came': '',
        'free': 9500000000,
        **fields,
    }


def archive(**fields):
    return file(
        **{
            'kind': 'archive',
            'source': '/srv/airgap/arm64/k3s-airgap-images-arm64.tar.zst',
            'size': 212000000,
            'version': '',
            'dest': '/var/lib/rancher/k3s/agent/images/k3s-airgap-images-arm64.tar.zst',
            'verified': ['sha256sum-arm64.txt'],
            'sha256': DIGEST[::-1],
            'installed': 'absent',
            'action': 'install',
            'bytes_to_send': 212000000,
            **fields,
        }
    )


def looked(**fields):
    """Return the result of a host that can be served, but for *fields*."""
    return {
        'changed': True,
        'k3s_artifact': {
            'host': 'pi1',
            'machine': 'aarch64',
            'arch': 'arm64',
            'problems': [],
            'warnings': [],
            'unreachable': False,
            'directory': '/srv/airgap',
            'node_version': 'v1.30.8+k3s1',
            'version': 'v1.31.4+k3s1',
            'bytes_to_send': 280157440,
            'free': 9500000000,
            'left_out': [['longhorn-1.7.2.tgz', 'not an image archive']],
            'superseded': [],
            'files': [file(), archive()],
            **fields,
        },
    }


def rows(**results):
    return [report.host_row(host, result, True) for host, result in results.items()]


def table(*of, width=100, title='What each host gets', **results):
    return report.table([*of, *rows(**results)], width, title)


def section(lines, heading):
    """Return the lines below *heading*."""
    after = lines[lines.index(heading) + 1 :]
    return after[: after.index('')]


# --- what is a problem -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('result', 'in_play', 'problems'),
    [
        (looked(), True, []),
        (looked(problems=['no room']), True, ['no room']),
        (looked(problems=['no room', 'no room']), True, ['no room']),
        ({**looked(problems=['no room']), 'failed': True, 'msg': 'see problems'}, True, ['no room']),
        ({'failed': True, 'msg': 'No such\n  option.'}, True, ['No such option.']),
        ({'failed': True}, True, ['pi1 failed: see above.']),
        ({'unreachable': True, 'msg': NO_ROUTE}, True, [f'pi1 is unreachable: {NO_ROUTE}']),
        ({'unreachable': True, 'msg': NO_ROUTE}, False, [f'pi1 is unreachable: {NO_ROUTE}']),
        (looked(unreachable=True), True, ['pi1 is unreachable.']),
        (looked(), False, ['pi1 failed or is unreachable: see above.']),
        (None, False, ['pi1 failed or is unreachable: see above.']),
        (None, True, ['pi1 has no result: the task that looks at it did not run, or no_log hides what it found.']),
        (
            {'skipped': True, 'changed': False},
            True,
            ['pi1 has no result: the task that looks at it did not run, or no_log hides what it found.'],
        ),
        ('text', True, ['pi1 has no result: the task that looks at it did not run, or no_log hides what it found.']),
    ],
)
def test_every_host_without_a_good_result_has_one_problem(result, in_play, problems):
    assert report.host_row('pi1', result, in_play)['problems'] == problems


def test_a_host_is_called_as_the_inventory_calls_it():
    assert report.host_row('pi1', looked(host='another'), True)['host'] == 'pi1'


def test_a_row_has_all_fields_in_one_order_and_keeps_what_it_does_not_know():
    row = report.host_row('pi1', looked(relay='pi9', files=[{'site': 'north', 'kind': 'binary'}]), True)
    assert list(row) == [*report.HOST_FIELDS, 'relay']
    assert list(row['files'][0]) == [*report.FILE_FIELDS, 'site']
    assert list(report.host_row('pi1', None, True)) == list(report.HOST_FIELDS)


# --- text of a given width -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('size', 'text'),
    [
        (0, '0 B'),
        (999, '999 B'),
        (1000, '1.0 kB'),
        (65000000, '65.0 MB'),
        (999999, '999.9 kB'),
        (1000000, '1.0 MB'),
        (212345678, '212.3 MB'),
        (3 * 10**9, '3.0 GB'),
        (10**30, 'over 1000 PB'),
    ],
)
def test_sizes_are_as_people_read_them(size, text):
    assert report.size_text(size) == text


@pytest.mark.parametrize(
    ('text', 'width', 'shown'),
    [
        ('k3s-arm64', 9, 'k3s-arm64'),
        ('k3s-airgap-images-arm64.tar.zst', 20, 'k3s-air…rm64.tar.zst'),
        ('日本語', 6, '日本語'),
        ('日本語', 5, '日…語'),
        ('abc', 1, '…'),
    ],
)
def test_a_long_name_is_cut_in_the_middle(text, width, shown):
    assert report.cut(text, width) == shown


@pytest.mark.parametrize(
    ('value', 'shown'),
    [
        ('a\nb\t c', 'a b c'),
        ('\x1b[31mred', '\\x1b[31mred'),
        ('\x9b31m', '\\x9b31m'),
        ('\u202egnp', '\\u202egnp'),
        ('\udcff', '\\udcff'),
        ('\0', '\\x00'),
        ('Ä 日本', 'Ä 日本'),
        (None, ''),
        (5, '5'),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_text(value, shown):
    assert report.clean(value) == shown


@pytest.mark.parametrize(
    ('path', 'directory', 'shown'),
    [
        ('/srv/airgap/arm64/k3s', '/srv/airgap', 'arm64/k3s'),
        ('/srv/airgap/arm64/k3s', '/srv/airgap/', 'arm64/k3s'),
        ('/srv/airgap2/k3s', '/srv/airgap', '/srv/airgap2/k3s'),
        ('/k3s', '', '/k3s'),
        ('/k3s', '/', 'k3s'),
    ],
)
def test_a_source_is_shown_relative_to_the_artifact_directory(path, directory, shown):
    assert report.relative(path, directory) == shown


# --- the table -------------------------------------------------------------------------------------------------------


def documented_rows():
    """Return the rows of the example in docs/report.md."""
    sentence = "No K3s binary for host '{}' (machine armv7l, arch arm): /srv/airgap has no k3s-armhf. Put it there."
    broken = {'machine': 'armv7l', 'arch': 'arm', 'files': [], 'bytes_to_send': 0, 'version': '', 'node_version': ''}
    return rows(
        server1=looked(
            machine='x86_64',
            arch='amd64',
            node_version='',
            bytes_to_send=71000000,
            left_out=[],
            files=[
                file(
                    source='/srv/airgap/amd64/k3s',
                    verified=['ELF header', 'sha256sum-amd64.txt'],
                    size=71000000,
                    installed='absent',
                    action='install',
                )
            ],
        ),
        pi1=looked(superseded=['k3s-airgap-images-arm64.tar.gz']),
        pi2=looked(problems=[sentence.format('pi2')], **broken),
        pi3=looked(problems=[sentence.format('pi3')], **broken),
        pi4={'unreachable': True, 'msg': NO_ROUTE},
    )


@pytest.mark.parametrize('width', [80, 100])
def test_the_documented_table_is_what_is_shown(width):
    shown = '\n'.join(table(*documented_rows(), width=width))
    assert f'```text\n{shown}\n```' in PAGE, shown


def test_the_documented_json_is_what_is_written():
    row = documented_rows()[0]
    shown = json.dumps(report.report_data([row], 'What each host gets'), indent=2)
    assert f'```json\n{shown}\n```' in PAGE, shown


@pytest.mark.parametrize('name', [*report.HOST_FIELDS, *report.FILE_FIELDS])
def test_every_field_of_the_json_is_documented(name):
    assert re.search(rf'^\| `{name}` \|', PAGE, re.MULTILINE)


def test_each_file_of_each_host_is_one_line():
    lines = table(pi1=looked(), pi2=looked())
    assert sum(DIGEST[:12] in line for line in lines) == 2
    assert sum(DIGEST[::-1][:12] in line for line in lines) == 2
    assert not any(DIGEST[:13] in line for line in lines)


@pytest.mark.parametrize(
    ('before', 'after', 'shown'),
    [
        ('v1.30.8+k3s1', 'v1.31.4+k3s1', 'v1.30.8+k3s1 -> v1.31.4+k3s1'),
        ('', 'v1.31.4+k3s1', '-> v1.31.4+k3s1'),
        ('v1.31.4+k3s1', 'v1.31.4+k3s1', 'keeps v1.31.4+k3s1'),
        ('v1.30.8+k3s1', '', 'v1.30.8+k3s1'),
        ('', '', ''),
    ],
)
def test_a_host_line_says_which_k3s_a_node_has_and_gets(before, after, shown):
    assert report.host_cells(rows(pi1=looked(node_version=before, version=after))[0])[2] == shown


@pytest.mark.parametrize(
    ('action', 'came', 'shown'),
    [
        ('replace', '', 'replace'),
        ('nothing', '', 'nothing'),
        ('replace', 'pushed', 'pushed'),
        ('install', 'waiting', 'waiting'),
        ('nothing', 'there', 'there'),
        ('attributes', 'there', 'attributes'),
    ],
)
def test_after_a_run_the_table_says_how_a_file_came(action, came, shown):
    assert report.file_cells(rows(pi1=looked(files=[file(action=action, came=came)]))[0]['files'][0], '')[-1] == shown
    assert any(re.search(r'node had +came$', line) for line in table(pi1=looked(files=[file(came='pushed')])))


@pytest.mark.parametrize(
    ('said', 'notes'),
    [
        ([('a', 'One.')], ['a: One.']),
        ([('a', 'One.'), ('b', 'One.'), ('c', 'One.')], ['a, b, c: One.']),
        ([('a', 'One.'), ('a', 'Two.'), ('b', 'Two.')], ['a: One.', 'a, b: Two.']),
        ([('a', 'a is unreachable: x')], ['a is unreachable: x']),
        ([('a', 'a is unreachable: x'), ('b', 'b is unreachable: x')], ['a, b: each is unreachable: x']),
        ([('a', "No file for host 'a'.")], ["a: No file for host 'a'."]),
        ([('a', "No file for host 'a'."), ('b', "No file for host 'b'.")], ["a, b: No file for host '…'."]),
        ([('a', 'a-1 is full'), ('b', 'b-1 is full')], ['a: a-1 is full', 'b: b-1 is full']),
        ([('', 'One.'), ('.*', 'One.')], [', .*: One.']),
    ],
)
def test_a_sentence_is_said_once_with_the_names_of_its_hosts(said, notes):
    assert report.said_once(said) == notes


def test_one_wrong_directory_for_many_hosts_is_said_once():
    names = [f'pi{number}' for number in range(150)]
    lines = table(
        **{
            name: looked(problems=['k3s_artifact_dir: /srv/airgpa does not exist.'], files=[], left_out=[])
            for name in names
        }
    )
    assert sum('does not exist' in line for line in lines) == 1
    said = ' '.join(' '.join(section(lines, 'Problems:')).split())
    assert said == f'- {", ".join(names)}: k3s_artifact_dir: /srv/airgpa does not exist.'
    assert len(lines) < 150 + 20


def test_what_is_left_out_is_named_once_for_all_hosts():
    both = [['a.tgz', 'not an image archive'], ['b.tgz', 'not an image archive']]
    lines = table(pi1=looked(left_out=both), pi2=looked(left_out=[*both, ['c.tar', 'unreadable']]))
    assert section(lines, 'Left out of the artifact directory:') == [
        '- not an image archive: a.tgz, b.tgz',
        '- unreadable: c.tar',
    ]


SENT = looked(bytes_to_send=212000000, files=[
    file(came='fetched'), file(came='there', bytes_to_send=0), archive(came='waiting', bytes_to_send=68157440)])


def test_after_a_run_a_host_line_says_what_was_sent_and_not_what_was_to_be():
    lines = table(pi1=SENT, pi2=looked(files=[file()], problems=['Full.']))
    assert re.search(r' sent$', lines[1]) and not any('to send' in line for line in lines)
    assert re.search(r'^pi1 .* 136\.3 MB$', lines[4])
    assert any(re.match(r'pi2 .* 0 B, 1 problem$', line) for line in lines)


@pytest.mark.parametrize(
    ('results', 'text'),
    [
        ({'a': looked()}, '1 host, no problems, 280.1 MB to send.'),
        ({'a': looked(), 'b': looked()}, '2 hosts, no problems, 560.3 MB to send.'),
        ({'a': looked(), 'b': None}, '1 host of 2 with problems, 280.1 MB to send.'),
        ({}, '0 hosts, no problems, 0 B to send.'),
        ({'a': SENT, 'b': looked(files=[file()], problems=['Full.'])}, '1 host of 2 with problems, 136.3 MB sent.'),
    ],
)
def test_the_last_line_sums_up(results, text):
    assert table(**results)[-1] == report.summary(rows(**results)) == text


ANY = st.one_of(
    st.text(max_size=300),
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.lists(st.text(max_size=150), max_size=3),
    st.lists(st.lists(st.text(max_size=150), min_size=2, max_size=2), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(), max_size=2),
)
WIDE = st.text(st.characters() | st.sampled_from('日本語👍\x1b\x9b\u202e|\n\\ \u0301'), max_size=300)
FILE = st.fixed_dictionaries({}, optional=dict.fromkeys(report.FILE_FIELDS, ANY | WIDE))
KNOWN = st.fixed_dictionaries(
    {},
    optional={
        name: st.lists(FILE | ANY, max_size=3) | ANY if name == 'files' else ANY | WIDE for name in report.HOST_FIELDS
    },
)
RESULT = ANY | st.fixed_dictionaries(
    {}, optional={'k3s_artifact': KNOWN | ANY, 'msg': ANY | WIDE, 'failed': ANY, 'unreachable': ANY, 'changed': ANY}
)


@settings(max_examples=int(os.environ.get('K3S_ARTIFACT_FUZZ_EXAMPLES', '300')))
@given(st.dictionaries(WIDE, RESULT, max_size=4), st.integers(80, 100), WIDE)
def test_whatever_nodes_say_the_report_stays_in_its_width_and_is_text(results, width, title):
    of_all = [report.host_row(host, result, True) for host, result in results.items()]
    lines = report.table(of_all, width, title)
    for line in lines:
        assert line == '' or line.isprintable()
        assert sum(2 if unicodedata.east_asian_width(c) in 'WF' else 1 for c in line) <= width
    assert json.loads(json.dumps(report.report_data(of_all, title)))['hosts'] == of_all
    cells = {
        len(re.findall(r'(?<!\\)(?:\\\\)*\|', line))
        for line in report.markdown(of_all, title).splitlines()
        if line.startswith('| ')
    }
    assert cells <= {3, 13, 17}


# --- JSON and Markdown -----------------------------------------------------------------------------------------------


def test_json_and_markdown_have_everything_in_full():
    of_all = rows(pi1=looked(problems=['x' * 5000], warnings=['w' * 500], superseded=['old.tar']))
    for text in (json.dumps(report.report_data(of_all, 'T')), report.markdown(of_all, 'T')):
        for fact in (
            'x' * 5000,
            'w' * 500,
            'old.tar',
            DIGEST,
            archive()['source'],
            archive()['dest'],
            'longhorn-1.7.2.tgz',
            '68157440',
            'v1.30.8+k3s1',
            'sha256sum-arm64.txt',
            '9500000000',
        ):
            assert fact in text


@pytest.mark.parametrize(
    ('value', 'shown'),
    [
        ('a|b', '\\|'),
        ('![x](http://e/)', '!\\[x\\]'),
        ('<img src=x>', '\\<img'),
        ('a\\|b', '\\\\\\|'),
        ('`x`', '\\`x\\`'),
    ],
)
def test_text_of_a_node_is_never_markup(value, shown):
    assert shown in report.markdown(rows(pi1=looked(machine=value)), 'T')


# --- where it is written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['rep', 'rep.json', 'rep.md'])
def test_a_report_is_two_files_for_the_owner_only(tmp_path, name):
    assert report.obstacle(f'{tmp_path}/{name}') == ''
    report.ActionModule._write(f'{tmp_path}/{name}', rows(pi1=looked()), 'T')
    assert {(path.name, stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()} == {
        ('rep.json', 0o600),
        ('rep.md', 0o600),
    }
    assert json.loads((tmp_path / 'rep.json').read_text())['hosts'][0]['host'] == 'pi1'


@pytest.mark.parametrize(
    ('path', 'says'),
    [
        ('out/rep', 'the folder {}/out does not exist'),
        ('file/rep', 'the folder {}/file is no folder'),
        ('there/', 'a file name is missing'),
        ('.json', 'a file name is missing'),
        ('taken', '{}/taken.md is a folder'),
        ('/proc/rep', 'no file can be made in the folder /proc ('),
    ],
)
def test_where_no_report_can_be_written_one_sentence_names_the_place(tmp_path, monkeypatch, path, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('')
    (tmp_path / 'there').mkdir()
    (tmp_path / 'taken.md').mkdir()
    found = report.obstacle(path)
    assert says.format(tmp_path) in found and path in found and '\n' not in found


# --- who reads the terminal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('callback', 'arguments', 'answer'),
    [
        ('default', {}, True),
        ('ansible.builtin.default', {}, True),
        ('debug', {}, True),
        ('ansible.posix.debug', {}, True),
        ('community.general.yaml', {}, True),
        ('yaml', {}, True),
        ('dense', {}, True),
        ('community.general.unixy', {}, True),
        ('json', {}, False),
        ('ansible.posix.json', {}, False),
        ('ansible.posix.jsonl', {}, False),
        ('oneline', {}, False),
        ('minimal', {}, False),
        ('awx_display', {}, False),
        ('null', {}, False),
        ('default', {'module_name': 'airgap.k3s.report', 'one_line': True}, False),
    ],
)
def test_only_callbacks_for_people_get_lines(callback, arguments, answer):
    assert report.is_for_people(callback, arguments) is answer


@pytest.mark.parametrize(
    ('environ', 'terminal', 'width'),
    [
        ({}, 79, 80),
        ({}, 99, 100),
        ({}, 199, 100),
        ({}, 89, 90),
        ({'COLUMNS': '80'}, 199, 80),
        ({'COLUMNS': '100'}, 79, 100),
        ({'COLUMNS': '400'}, 79, 100),
        ({'COLUMNS': '20'}, 79, 80),
        ({'COLUMNS': 'wide'}, 79, 80),
        ({'COLUMNS': ''}, 99, 100),
    ],
)
def test_the_table_is_as_wide_as_the_terminal_in_bounds(environ, terminal, width):
    assert report.table_width(environ, terminal) == width


class HostVars(dict):
    """Variables by host, to be read raw only."""

    raw_get = dict.__getitem__

    def __getitem__(self, host):
        raise AssertionError('a result is read in a way that evaluates templates')


def strings(value):
    """Yield all texts in *value*."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def test_every_text_that_leaves_the_plugin_is_marked_unsafe():
    task = Task.load({'airgap.k3s.report': {'of': 'looked'}})
    task.args = {'of': 'looked'}
    connection = connection_loader.get('ansible.builtin.local', PlayContext(), os.devnull)
    action = report.ActionModule(task, connection, PlayContext(), DataLoader(), None, None)
    result = action.run(
        task_vars={
            'hostvars': HostVars(pi1={'looked': looked(problems=['{{ 7 * 7 }}'])}),
            'ansible_play_hosts': ['pi1'],
            'ansible_play_hosts_all': ['pi1'],
        }
    )
    assert result['problems'] == {'pi1': ['{{ 7 * 7 }}']}
    assert {type(text) for text in strings(result)} == {type(wrap_var('text'))}


def test_the_documentation_has_the_options_that_the_plugin_takes():
    documented = yaml.safe_load(documentation.DOCUMENTATION)['options']
    assert {name: (option['type'], option.get('default')) for name, option in documented.items()} == {
        'of': ('str', None),
        'path': ('str', ''),
        'title': ('str', 'K3s artifacts'),
        'hosts': ('str', ''),
        'check_only': ('bool', False),
    }
