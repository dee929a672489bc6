# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# One report on all hosts of a play: a table for the terminal, the same facts in full as JSON and Markdown.
# Documented in plugins/modules/report.py.

from __future__ import annotations

import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Mapping

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.unsafe_proxy import wrap_var

NARROWEST, WIDEST = 80, 100  # columns of the table; ansible-core, too, takes every terminal for 80 columns wide at least
INDENT = '  '
LONGEST_SENTENCE = 2000  # characters that the table shows of a problem; JSON and Markdown have all of it

# Stdout callbacks that write text for people, which more text does not break. All others get data only.
FOR_PEOPLE = frozenset((
    'actionable', 'debug', 'default', 'default_without_diff', 'dense', 'diy', 'full_skip', 'print_task', 'skippy', 'stderr', 'tasks_only',
    'timestamp', 'unixy', 'yaml'))


# --- from results to plain data --------------------------------------------------------------------------------------


def clean(value):
    """Return *value* as one line of text: blanks joined, and what is not printable written as Python does (``\\x1b``)."""
    text = ' '.join(str.__str__(value).split()) if isinstance(value, str) else '' if value is None else repr(value)
    return text if text.isprintable() else ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def plain(value):
    """Return *value* with nothing in it but dicts, lists, clean text, numbers, booleans and None."""
    if isinstance(value, Mapping):
        return {clean(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else clean(value)


def number(value):
    return min(int(value), 2 ** 63) if isinstance(value, int) and value > 0 else 0


def number_or_none(value):
    return None if value is None else number(value)


def texts(value):
    """Return a list of texts, each once, in the order in which they came first."""
    return list(dict.fromkeys(clean(item) for item in value)) if isinstance(value, list) else []


def pairs(value):
    return [[clean(item[0]), clean(item[1])] for item in value if isinstance(item, list) and len(item) == 2] if isinstance(value, list) else []


def files(value):
    return [typed(item, FILE_FIELDS) for item in value if isinstance(item, dict)] if isinstance(value, list) else []


FILE_FIELDS = {
    'kind': clean, 'source': clean, 'dest': clean, 'size': number, 'sha256': clean, 'verified': texts, 'version': clean, 'installed': clean,
    'action': clean, 'bytes_to_send': number, 'came': clean, 'free': number_or_none,
}
HOST_FIELDS = {
    'host': clean, 'machine': clean, 'arch': clean, 'node_version': clean, 'version': clean, 'problems': texts, 'warnings': texts,
    'unreachable': bool, 'changed': bool, 'directory': clean, 'bytes_to_send': number, 'free': number_or_none, 'left_out': pairs,
    'superseded': texts, 'files': files,
}


def typed(known, fields):
    """Return the plain dict *known* with all of *fields*, in their order and of their types, and then whatever else is in it."""
    return {**{name: convert(known.get(name)) for name, convert in fields.items()},
            **{name: value for name, value in known.items() if name not in fields}}


def host_row(host, result, in_play):
    """Return what is known of *host*, as plain data: the fields of HOST_FIELDS.

    result: what the host's task registered, None if there is nothing. in_play: whether the play still has the host.
    """
    result = result if isinstance(result, Mapping) else {}
    known = plain(result.get('k3s_artifact'))
    row = typed(known if isinstance(known, dict) else {}, HOST_FIELDS)
    row.update(host=clean(host), changed=result.get('changed') is True, unreachable=row['unreachable'] or result.get('unreachable') is True)
    row['problems'] = row['problems'] or own_problems(row, result, bool(known), in_play)
    return row


def own_problems(row, result, known, in_play):
    """Return what a result without a problem of its own has to be blamed for: what Ansible said, or that nothing is there."""
    host, said = row['host'], without_prefix(clean(result.get('msg')))
    if row['unreachable']:
        return [f'{host} is unreachable: {said}' if said else f'{host} is unreachable.']
    if result.get('failed') is True:
        return [said or f'{host} failed: see above.']
    if not in_play:
        return [f'{host} failed or is unreachable: see above.']
    return [] if known else [f'{host} has no result: the task that looks at it did not run, or its result is hidden by no_log.']


def without_prefix(message):
    """Return what a plugin said, without the words that ansible-core from 2.19 on puts before it."""
    return re.sub('^Task failed: ', '', message)


# --- text of a given width -------------------------------------------------------------------------------------------


def columns(text):
    """Return how many columns of a terminal a clean *text* takes: two for the wide characters of East Asia."""
    return len(text) if text.isascii() else sum(2 if unicodedata.east_asian_width(c) in 'WF' else 1 for c in text)


def beginning(text, width):
    """Return the longest beginning of *text* that fits *width* columns."""
    end = width
    while columns(text[:end]) > width:
        end -= 1
    return text[:end]


def cut(text, width):
    """Return *text*, cut in the middle to *width* columns. More is left of its end, where suffixes and architectures are."""
    if columns(text) <= width:
        return text
    end = beginning(text[:-width - 1:-1], (width - 1) * 2 // 3)[::-1]
    return f'{beginning(text, width - 1 - columns(end))}…{end}'


def wrapped(text, width, first='', rest=''):
    """Return *text* as lines of at most *width* columns; the first line begins with *first*, all others with *rest*."""
    lines, line = [], first
    for word in text.split():
        if line not in (first, rest) and columns(line) + 1 + columns(word) > width:
            lines, line = [*lines, line], rest
        line += word if line in (first, rest) else f' {word}'
        while columns(line) > width:
            part = beginning(line, width)
            lines, line = [*lines, part], rest + line[len(part):]
    return [*lines, line]


def size_text(size):
    """Return a number of bytes as people read it: 999 B, 65.0 MB (a million bytes each)."""
    if size < 1000:
        return f'{size} B'
    for unit in ('kB', 'MB', 'GB', 'TB', 'PB'):
        size, tenths = size // 1000, size // 100 % 10
        if size < 1000:
            return f'{size}.{tenths} {unit}'
    return 'over 1000 PB'


def relative(path, directory):
    """Return *path* as seen from the artifact *directory*, or as it is if it is elsewhere."""
    start = directory.rstrip('/') + '/'
    return path[len(start):] if directory and path.startswith(start) else path


# --- the table -------------------------------------------------------------------------------------------------------

# Heading of each column, and the width below which it gives nothing while another has more to spare.
FILE_COLUMNS = (('file', 22), ('size', 10), ('sha256', 16), ('verified', 11), ('node had', 9), ('to do', 10))
HOST_COLUMNS = (('host', 16), ('machine, arch', 14), ('K3s has -> gets', 26), ('to send', 16))


def file_cells(file, directory):
    """Return the cells for one file. Its ELF header is named as what verified it where no list or signature did."""
    done = file['action'] if file['action'] == 'attributes' or not file['came'] else file['came']
    verified = ', '.join([name for name in file['verified'] if name != 'ELF header'] or file['verified'])
    return [relative(file['source'], directory) or file['kind'], size_text(file['size']), file['sha256'][:12], verified, file['installed'],
            done]


def host_cells(row):
    before, after = row['node_version'], row['version']
    versions = f'keeps {after}' if before == after != '' else f'{before} -> {after}'.strip() if after else before
    send = 'unreachable' if row['unreachable'] else size_text(row['bytes_to_send'])
    problems = f', {counted(len(row["problems"]), "problem")}' if row['problems'] else ''
    return [row['host'], ', '.join(dict.fromkeys(filter(None, (row['machine'], row['arch'])))), versions, send + problems]


def counted(count, noun):
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


def fitted(lines, least, width):
    """Return the widths of the columns of *lines* (lists of cells), so that all fit *width*: whatever has most to spare gives."""
    widths = [max(map(columns, cells)) for cells in zip(*lines)]
    room = width - 2 * (len(widths) - 1)
    while sum(widths) > room:
        most = max(range(len(widths)), key=lambda column: widths[column] - least[column])
        widths[most] -= 1
    return widths


def laid_out(cells, widths, right=()):
    """Return *cells* as one line. The columns in *right* are aligned to the right."""
    padded = []
    for column, (cell, width) in enumerate(zip(cells, widths)):
        cell = cut(cell or '-', width)
        space = ' ' * (width - columns(cell))
        padded.append(space + cell if column in right else cell + space)
    return '  '.join(padded).rstrip()


def table(rows, width, title):
    """Return the report on all hosts as lines of text, none wider than *width* columns (from 80 on)."""
    hosts = [host_cells(row) for row in rows]
    found = [[file_cells(file, row['directory']) for file in row['files']] for row in rows]
    headings, least = zip(*FILE_COLUMNS)
    if any(file['came'] for row in rows for file in row['files']):
        headings = (*headings[:-1], 'came')  # the report on a run that did something says how
    file_widths = fitted([headings, *(cells for host in found for cells in host)], least, width - len(INDENT))
    host_headings, least = zip(*HOST_COLUMNS)
    host_widths = fitted([host_headings, *hosts], least, width)

    lines = [cut(clean(title), width), laid_out(host_headings, host_widths)]
    lines += [INDENT + laid_out(headings, file_widths, right=(1,)), '-' * width] if any(found) else ['-' * width]
    for host, cells_of_files in zip(hosts, found):
        lines.append(laid_out(host, host_widths))
        lines += [INDENT + laid_out(cells, file_widths, right=(1,)) for cells in cells_of_files]
    for heading, notes in sections(rows):
        lines += ['', heading]
        for note in notes:
            lines += wrapped(note, width, '- ', INDENT)
    return [*lines, '', *wrapped(summary(rows), width)]


def sections(rows):
    """Yield what stands below the table: a heading and a list of sentences, each said once for all hosts. Problems come last."""
    left_out = {}
    for name, why in (pair for row in rows for pair in row['left_out']):
        left_out.setdefault(why, {})[name] = True
    yield from (section for section in (
        ('Left out of the artifact directory:', [f'{why}: {", ".join(names)}' for why, names in left_out.items()]),
        ('No longer needed on the nodes:', said_once([(row['host'], ', '.join(row['superseded'])) for row in rows if row['superseded']])),
        ('Warnings:', said_once([(row['host'], warning) for row in rows for warning in row['warnings']])),
        ('Problems:', said_once([(row['host'], problem) for row in rows for problem in row['problems']])),
    ) if section[1])


def said_once(said):
    """Return each sentence once, with the names of its hosts before it.

    said: pairs of host and sentence. Sentences that differ in nothing but the name of their own host are the same: then ``…``
    stands for the name.
    """
    of_all = {}
    for host, sentence in said:
        of_all.setdefault(sentence, []).append(host)
    groups = {}
    for sentence, hosts in of_all.items():
        groups.setdefault(sentence if len(hosts) > 1 else without_name(sentence, hosts[0]), []).append((hosts, sentence))
    notes = []
    for common, group in groups.items():
        names = [host for hosts, _sentence in group for host in hosts]
        sentence = group[0][1] if len(group) == 1 else re.sub(r'^…(?= )', 'each', common)
        sentence = sentence if len(sentence) <= LONGEST_SENTENCE else f'{sentence[:LONGEST_SENTENCE]}…'
        notes.append(sentence if len(names) == 1 and re.match(rf'{re.escape(names[0])}[ :]', sentence) else f'{", ".join(names)}: {sentence}')
    return notes


def without_name(sentence, host):
    return re.sub(rf'(?<![\w.-]){re.escape(host)}(?![\w-])', '…', sentence) if host else sentence


def summary(rows):
    """Return one line on all hosts."""
    bad = sum(1 for row in rows if row['problems'])
    verdict = f'{counted(bad, "host")} of {len(rows)} with problems' if bad else f'{counted(len(rows), "host")}, no problems'
    return f'{verdict}, {size_text(sum(row["bytes_to_send"] for row in rows))} to send.'


# --- the files -------------------------------------------------------------------------------------------------------


def report_data(rows, title):
    """Return everything that is known, as data in an order that depends on nothing but the inventory."""
    return {'title': clean(title), 'summary': summary(rows), 'ok': not any(row['problems'] for row in rows),
            'bytes_to_send': sum(row['bytes_to_send'] for row in rows), 'hosts': rows}


def markdown_text(value):
    """Return *value* for a cell of a Markdown table: as text, never as markup."""
    text = '-' if value in (None, '', []) else ', '.join(value) if isinstance(value, list) else str(value)
    return re.sub(r'[\\`*\[\]|<>&]', r'\\\g<0>', text)


def markdown_table(headings, lines):
    return ['| ' + ' | '.join(cells) + ' |' for cells in (
        headings, ['---'] * len(headings), *([markdown_text(cell) for cell in line] for line in lines))]


def markdown(rows, title):
    """Return the report on all hosts as Markdown, nothing shortened."""
    facts = ('host', 'machine', 'arch', 'node_version', 'version', 'bytes_to_send', 'free', 'directory', 'superseded', 'warnings', 'problems')
    lines = [f'# {markdown_text(clean(title))}', '', markdown_text(summary(rows)), '']
    lines += markdown_table(('host', 'machine', 'arch', 'K3s it has', 'K3s it gets', 'bytes to send', 'bytes free', 'artifact directory',
                             'no longer needed', 'warnings', 'problems'),
                            [[row[fact] if fact not in ('warnings', 'problems') else ' '.join(row[fact]) for fact in facts] for row in rows])
    lines += ['', '## Files', '']
    lines += markdown_table(('host', 'kind', 'source', 'destination', 'bytes', 'sha256', 'verified by', 'version', 'node had', 'to do',
                             'bytes to send', 'came', 'bytes free'),
                            [[row['host'], *(file[name] for name in FILE_FIELDS)] for row in rows for file in row['files']])
    left_out = dict.fromkeys((name, why) for row in rows for name, why in row['left_out'])
    if left_out:
        lines += ['', '## Left out', '', *markdown_table(('file', 'why'), left_out)]
    return '\n'.join(lines) + '\n'


def report_paths(path):
    """Return the absolute paths of the two files of a report that the user calls *path*, with or without a suffix."""
    stem = os.path.abspath(os.path.expanduser(without_suffix(path)))
    return f'{stem}.json', f'{stem}.md'


def without_suffix(path):
    return re.sub(r'\.(json|md)$', '', path)


def obstacle(path):
    """Return a sentence on why no report can be written at *path* (the user's word for it), or ''."""
    paths, named = report_paths(path), f"The report cannot be written to '{clean(path)}' (k3s_artifact_report)"
    folder = os.path.dirname(paths[0])
    if not os.path.basename(without_suffix(path)):
        return f'{named}: a file name is missing at its end. Name the report, and it is written as <name>.json and <name>.md.'
    if not os.path.isdir(folder):
        what = 'is no folder' if os.path.lexists(folder) else 'does not exist on the controller'
        return f'{named}: the folder {clean(folder)} {what}. Create it first, or name another one.'
    if not os.access(folder, os.W_OK | os.X_OK):
        return f'{named}: you may not write to the folder {clean(folder)}. Name another one.'
    in_the_way = next(filter(os.path.isdir, paths), None)
    return f'{named}: {clean(in_the_way)} is a folder. Choose another name.' if in_the_way else ''


def write_private(path, text):
    """Write *text* to *path* whole or not at all, readable for its owner only."""
    handle, partial = tempfile.mkstemp(dir=os.path.dirname(path), prefix='.report-')  # with mode 0600
    try:
        with open(handle, 'w', encoding='utf-8') as file:
            file.write(text)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


# --- the terminal ----------------------------------------------------------------------------------------------------


def is_for_people(callback, arguments):
    """Say whether the stdout *callback* writes text for people. *arguments* are those of the command line.

    The program ``ansible`` (only it has a module name) takes a callback of its own, one line or one JSON text for each result.
    """
    return callback.rpartition('.')[2] in FOR_PEOPLE and 'module_name' not in arguments


def table_width(environ, terminal):
    """Return the width for the table: COLUMNS, else what ansible-core found out about the *terminal*, in bounds."""
    named = environ.get('COLUMNS', '')
    wanted = int(named) if re.fullmatch('[0-9]{1,6}', named) else terminal + 1  # ansible-core leaves the last column free
    return min(max(wanted, NARROWEST), WIDEST)


class ActionModule(ActionBase):
    """Runs on the controller alone, once for all hosts."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _ignored, options = self.validate_argument_spec(
            {'of': {'type': 'str'}, 'path': {'type': 'str', 'default': ''}, 'title': {'type': 'str', 'default': 'K3s artifacts'},
             'check_only': {'type': 'bool', 'default': False}}, required_if=[('check_only', False, ['of'])])
        problem = obstacle(options['path']) if options['path'] else ''
        if problem:
            raise AnsibleActionFail(problem)
        if options['check_only']:
            return {'changed': False}
        rows = self._rows(options['of'], task_vars)
        self._write(options['path'], rows, options['title'])
        display = Display()
        lines = table(rows, table_width(os.environ, display.columns), options['title'])
        if is_for_people(C.DEFAULT_STDOUT_CALLBACK, context.CLIARGS):
            for line in lines:
                display.display(line)
        # Up to ansible-core 2.18, whatever is not marked unsafe would be templated when the result is used.
        return wrap_var({'changed': False, 'msg': summary(rows), 'table': lines, 'hosts': rows,
                         'problems': {row['host']: row['problems'] for row in rows if row['problems']}})

    @staticmethod
    def _rows(name, task_vars):
        """Return the rows of all hosts of the play. Results are read as they are: a node's text could be a template."""
        hostvars, in_play = task_vars['hostvars'], set(task_vars['ansible_play_hosts'])
        hosts = task_vars['ansible_play_hosts_all']
        results = {host: hostvars.raw_get(host).get(name) for host in hosts}
        if not any(isinstance(result, Mapping) for result in results.values()) and in_play:
            raise AnsibleActionFail(f'No host has a result in the variable {clean(name)}. Give the option "of" the name that the task registers.')
        return [host_row(host, result, host in in_play) for host, result in results.items()]

    @staticmethod
    def _write(path, rows, title):
        if not path:
            return
        json_path, md_path = report_paths(path)
        try:
            write_private(json_path, json.dumps(report_data(rows, title), indent=2) + '\n')
            write_private(md_path, markdown(rows, title))
        except OSError as error:
            raise AnsibleActionFail(f'The report {clean(path)} cannot be written: {clean(error.strerror)}. Every host is as it was '
                                    'before this task.') from error
