# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# One report on all hosts of a play: a table for the terminal, the same facts in full as JSON and Markdown.
# Documented in plugins/modules/report.py; docs/report.md names every field.

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

from ansible_collections.airgap.k3s.plugins.lookup.k3s_artifact import ArtifactError, refuse_facts

# Columns of the table; ansible-core, too, takes every terminal for 80 columns wide at least.
NARROWEST = 80
WIDEST = 100
INDENT = '  '
LONGEST_SENTENCE = 2000  # characters that the table shows of a problem; JSON and Markdown have all of it

# Stdout callbacks that write text for people, which more text does not break. All others get data only.
FOR_PEOPLE = frozenset((
    'actionable', 'debug', 'default', 'default_without_diff', 'dense', 'diy', 'full_skip', 'print_task', 'skippy',
    'stderr', 'tasks_only', 'timestamp', 'unixy', 'yaml'))

# --- from results to plain data --------------------------------------------------------------------------------------


def clean(value):
    """Return *value* as one line: blanks joined, and what is not printable written as Python does (``\\x1b``)."""
    text = ' '.join(str.__str__(value).split()) if isinstance(value, str) else '' if value is None else repr(value)
    return text if text.isprintable() else ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def plain(value):
    """Return *value* with nothing in it but dicts, lists, clean text, numbers, booleans and None."""
    if isinstance(value, Mapping):
        return {clean(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else clean(value)


# Each of these takes a plain value, which is of the wrong type if the node or another task made it up.


def number(value):
    return min(int(value), 2 ** 63) if isinstance(value, int) and value > 0 else 0


def number_or_none(value):
    return None if value is None else number(value)


def items(value, kind):
    return [item for item in value if isinstance(item, kind)] if isinstance(value, list) else []


def texts(value):
    """Return a list of texts, each once, in the order in which they came first."""
    return list(dict.fromkeys(map(clean, items(value, object))))


def pairs(value):
    return [list(map(clean, item)) for item in items(value, list) if len(item) == 2]


def files(value):
    return [typed(item, FILE_FIELDS) for item in items(value, dict)]


FILE_FIELDS = {
    'kind': clean, 'source': clean, 'dest': clean, 'size': number, 'sha256': clean, 'verified': texts,
    'version': clean, 'installed': clean, 'action': clean, 'bytes_to_send': number, 'came': clean,
    'free': number_or_none, 'previous': clean, 'missing': texts, 'elsewhere': texts,
}
HOST_FIELDS = {
    'host': clean, 'machine': clean, 'arch': clean, 'node_version': clean, 'version': clean, 'problems': texts,
    'warnings': texts, 'unreachable': bool, 'changed': bool, 'directory': clean, 'bytes_to_send': number,
    'free': number_or_none, 'left_out': pairs, 'superseded': texts, 'pruned': texts, 'files': files,
}


def typed(known, fields):
    """Return the plain dict *known* with all of *fields*, in their order and types, then whatever else is in it."""
    return {**{name: convert(known.get(name)) for name, convert in fields.items()},
            **{name: value for name, value in known.items() if name not in fields}}


def host_row(host, result, in_play):
    """Return what is known of *host*, as plain data: the fields of HOST_FIELDS.

    result: what the host's task registered, None if there is nothing. in_play: whether the play still has the host.
    """
    result = result if isinstance(result, Mapping) else {}
    known = plain(result.get('k3s_artifact'))
    row = typed(known if isinstance(known, dict) else {}, HOST_FIELDS)
    row['host'], row['changed'] = clean(host), result.get('changed') is True
    row['unreachable'] = row['unreachable'] or result.get('unreachable') is True
    row['problems'] = row['problems'] or own_problems(row, result, bool(known), in_play)
    return row


def own_problems(row, result, known, in_play):
    """Return the problem of a host whose result names none: what Ansible said, or that nothing is there."""
    host, said = row['host'], without_prefix(clean(result.get('msg')))
    if row['unreachable']:
        return [f'{host} is unreachable: {said}' if said else f'{host} is unreachable.']
    if result.get('failed') is True:
        return [said or f'{host} failed: see above.']
    if not in_play:
        return [f'{host} failed or is unreachable: see above.']
    if known:
        return []
    return [f'{host} has no result: the task that looks at it did not run, or no_log hides what it found.']


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
    """Return *text*, cut in the middle to *width* columns. More is left of its end: there are suffix and arch."""
    if columns(text) <= width:
        return text
    end = beginning(text[:-width - 1:-1], (width - 1) * 2 // 3)[::-1]
    return f'{beginning(text, width - 1 - columns(end))}…{end}'


def wrapped(text, width, first='', rest=''):
    """Return *text* as lines of at most *width* columns; the first begins with *first*, all others with *rest*."""
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


def counted(count, noun):
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


def relative(path, directory):
    """Return *path* as seen from the artifact *directory*, or as it is if it is elsewhere."""
    start = directory.rstrip('/') + '/'
    return path[len(start):] if directory and path.startswith(start) else path


# --- the table -------------------------------------------------------------------------------------------------------

# Heading of each column, and the width below which it gives nothing while another has more to spare.
HOST_COLUMNS = (('host', 16), ('machine, arch', 14), ('K3s has -> gets', 26), ('to send', 16))
FILE_COLUMNS = (('file', 22), ('size', 10), ('sha256', 16), ('verified', 11), ('node had', 9), ('to do', 10))
SIZE_COLUMN = 1
CAME_IN_THIS_RUN = ('pushed', 'fetched', 'relayed', 'waiting')


def sent_bytes(row):
    """Return the bytes of the files that came to the host of *row* in this run, from wherever; those in whole."""
    return sum(file['bytes_to_send'] for file in row['files'] if file['came'] in CAME_IN_THIS_RUN)


def is_after_a_run(rows):
    return any(file['came'] for row in rows for file in row['files'])


def host_cells(row, is_after=False):
    before, after, problems = row['node_version'], row['version'], len(row['problems'])
    versions = f'keeps {after}' if before == after != '' else f'{before} -> {after}'.strip() if after else before
    size = sent_bytes(row) if is_after else row['bytes_to_send']
    send = 'unreachable' if row['unreachable'] else size_text(size)
    return [row['host'], ', '.join(dict.fromkeys(filter(None, (row['machine'], row['arch'])))), versions,
            f'{send}, {counted(problems, "problem")}' if problems else send]


def file_cells(file, directory):
    """Return the cells for one file. That its ELF header verified it is said where no list or signature did."""
    verified = ', '.join([name for name in file['verified'] if name != 'ELF header'] or file['verified'])
    done = file['action'] if file['action'] == 'attributes' or not file['came'] else file['came']
    return [relative(file['source'], directory) or file['kind'], size_text(file['size']), file['sha256'][:12],
            verified, file['installed'], done]


def fitted(lines, least, width):
    """Return widths for the columns of *lines* (lists of cells) that fit *width*: who has most to spare gives."""
    widths = [max(map(columns, cells)) for cells in zip(*lines)]
    room = width - 2 * (len(widths) - 1)
    while sum(widths) > room:
        most = max(range(len(widths)), key=lambda column: widths[column] - least[column])
        widths[most] -= 1
    return widths


def laid_out(cells, widths, right=None):
    """Return *cells* as one line, the one in the column *right* aligned to the right."""
    padded = []
    for column, (cell, width) in enumerate(zip(cells, widths)):
        cell = cut(cell or '-', width)
        space = ' ' * (width - columns(cell))
        padded.append(space + cell if column == right else cell + space)
    return '  '.join(padded).rstrip()


def table(rows, width, title):
    """Return the report on all hosts as lines of text, none wider than *width* columns (80 or more)."""
    host_headings, host_least = zip(*HOST_COLUMNS)
    file_headings, file_least = zip(*FILE_COLUMNS)
    is_after = is_after_a_run(rows)
    if is_after:  # the report on a run that did something says how much came, and how
        host_headings, file_headings = (*host_headings[:-1], 'sent'), (*file_headings[:-1], 'came')
    hosts = [(host_cells(row, is_after), [file_cells(file, row['directory']) for file in row['files']]) for row in rows]
    host_widths = fitted([host_headings, *(host for host, _files in hosts)], host_least, width)
    file_widths = fitted([file_headings, *(file for _host, of_host in hosts for file in of_host)], file_least,
                         width - len(INDENT))

    def lines_of(host, of_host):
        return [laid_out(host, host_widths), *(INDENT + laid_out(file, file_widths, SIZE_COLUMN) for file in of_host)]

    lines = [cut(clean(title), width), *lines_of(host_headings, [file_headings]), '-' * width]
    for host, of_host in hosts:
        lines += lines_of(host, of_host)
    for heading, notes in sections(rows):
        lines += ['', heading]
        for note in notes:
            lines += wrapped(note, width, '- ', INDENT)
    return [*lines, '', *wrapped(summary(rows), width)]


def sections(rows):
    """Return what stands below the table: headings, each with sentences said once for all hosts. Problems are last."""
    left_out = {}
    for name, why in (pair for row in rows for pair in row['left_out']):
        left_out.setdefault(why, {})[name] = True
    left = [(row['host'], [name for name in row['superseded'] if name not in row['pruned']]) for row in rows]
    pruned = [(row['host'], row['pruned']) for row in rows]
    found = (
        ('Left out of the artifact directory:', [f'{why}: {", ".join(names)}' for why, names in left_out.items()]),
        ('No longer needed on the nodes:', said_once(listed(left))),
        ('No longer needed, and removed by k3s_artifact_prune:', said_once(listed(pruned))),
        ('Warnings:', said_once([(row['host'], warning) for row in rows for warning in row['warnings']])),
        ('Problems:', said_once([(row['host'], problem) for row in rows for problem in row['problems']])),
    )
    return [(heading, notes) for heading, notes in found if notes]


def listed(named):
    """Return (host, names as one sentence) of the pairs of host and names, for the hosts that have any."""
    return [(host, ', '.join(names)) for host, names in named if names]


def said_once(said):
    """Return each sentence once, with the names of its hosts before it.

    said: pairs of host and sentence. Sentences that differ in nothing but the name of their own host are the same:
    then ``…`` stands for the name.
    """
    of_all = {}
    for host, sentence in said:
        of_all.setdefault(sentence, []).append(host)
    groups = {}
    for sentence, hosts in of_all.items():
        common = sentence if len(hosts) > 1 else without_name(sentence, hosts[0])
        groups.setdefault(common, []).append((hosts, sentence))
    return [note([host for hosts, _sentence in group for host in hosts],
                 group[0][1] if len(group) == 1 else re.sub('^…(?= )', 'each', common))
            for common, group in groups.items()]


def note(hosts, sentence):
    """Return *sentence* with the names of *hosts* before it, unless it begins with the name of the only one."""
    if len(sentence) > LONGEST_SENTENCE:
        sentence = f'{sentence[:LONGEST_SENTENCE]}…'
    named = len(hosts) == 1 and sentence.startswith((f'{hosts[0]} ', f'{hosts[0]}:'))
    return sentence if named else f'{", ".join(hosts)}: {sentence}'


def without_name(sentence, host):
    return re.sub(rf'(?<![\w.-]){re.escape(host)}(?![\w-])', '…', sentence) if host else sentence


def summary(rows):
    """Return one line on all hosts."""
    bad = sum(1 for row in rows if row['problems'])
    verdict = f'{counted(bad, "host")} of {len(rows)} with' if bad else f'{counted(len(rows), "host")}, no'
    if is_after_a_run(rows):
        return f'{verdict} problems, {size_text(sum(map(sent_bytes, rows)))} sent.'
    return f'{verdict} problems, {size_text(sum(row["bytes_to_send"] for row in rows))} to send.'


# --- the files -------------------------------------------------------------------------------------------------------

# Headings of the Markdown tables, and the fields below them.
HOST_FACTS = {
    'host': 'host', 'machine': 'machine', 'arch': 'arch', 'K3s it has': 'node_version', 'K3s it gets': 'version',
    'bytes to send': 'bytes_to_send', 'bytes free': 'free', 'artifact directory': 'directory',
    'no longer needed': 'superseded', 'removed': 'pruned', 'warnings': 'warnings', 'problems': 'problems',
}
FILE_FACTS = {
    'kind': 'kind', 'source': 'source', 'destination': 'dest', 'bytes': 'size', 'sha256': 'sha256',
    'verified by': 'verified', 'version': 'version', 'node had': 'installed', 'to do': 'action',
    'bytes to send': 'bytes_to_send', 'came': 'came', 'bytes free': 'free', 'kept as': 'previous',
    'images missing': 'missing', 'images for another platform': 'elsewhere',
}


def report_data(rows, title):
    """Return everything that is known, as data in an order that depends on nothing but the inventory."""
    return {'title': clean(title), 'summary': summary(rows), 'ok': not any(row['problems'] for row in rows),
            'bytes_to_send': sum(row['bytes_to_send'] for row in rows), 'hosts': rows}


def markdown_text(value):
    """Return *value* for a cell of a Markdown table: as text, never as markup."""
    text = '-' if value in (None, '', []) else '; '.join(value) if isinstance(value, list) else str(value)
    return re.sub(r'[\\`*\[\]|<>&]', r'\\\g<0>', text)


def markdown_table(headings, lines):
    cells = [headings, ['---'] * len(headings), *([markdown_text(cell) for cell in line] for line in lines)]
    return ['| ' + ' | '.join(line) + ' |' for line in cells]


def markdown(rows, title):
    """Return the report on all hosts as Markdown, nothing shortened."""
    hosts = [[row[field] for field in HOST_FACTS.values()] for row in rows]
    of_hosts = [[row['host'], *(file[field] for field in FILE_FACTS.values())] for row in rows for file in row['files']]
    left_out = dict.fromkeys((name, why) for row in rows for name, why in row['left_out'])
    lines = [f'# {markdown_text(clean(title))}', '', markdown_text(summary(rows)), '',
             *markdown_table(list(HOST_FACTS), hosts), '', '## Files', '',
             *markdown_table(['host', *FILE_FACTS], of_hosts)]
    if left_out:
        lines += ['', '## Left out', '', *markdown_table(['file', 'why'], left_out)]
    return '\n'.join(lines) + '\n'


def report_paths(path):
    """Return the absolute paths of the two files of a report that the user calls *path*, suffix or not."""
    stem = os.path.abspath(os.path.expanduser(without_suffix(path)))
    return f'{stem}.json', f'{stem}.md'


def without_suffix(path):
    return re.sub(r'\.(json|md)$', '', path)


def obstacle(path):
    """Return a sentence on why no report can be written at *path* (the user's word for it), or ''."""
    paths, named = report_paths(path), f"The report cannot be written to '{clean(path)}' (k3s_artifact_report)"
    folder = os.path.dirname(paths[0])
    if not os.path.basename(without_suffix(path)):
        return f'{named}: a file name is missing at its end. With one, it is written as <name>.json and <name>.md.'
    if not os.path.isdir(folder):
        what = 'is no folder' if os.path.lexists(folder) else 'does not exist on the controller'
        return f'{named}: the folder {clean(folder)} {what}. Create it first, or name another one.'
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix='.report-'):
            pass  # tried, because permissions say nothing of a file system that is full or read-only
    except OSError as error:
        return f'{named}: no file can be made in the folder {clean(folder)} ({error.strerror}). Name another one.'
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

    The program ``ansible`` (only it has a module name) takes a callback of its own, one text for each result.
    """
    return callback.rpartition('.')[2] in FOR_PEOPLE and 'module_name' not in arguments


def table_width(environ, terminal):
    """Return the width for the table: COLUMNS, else what ansible-core found out about the *terminal*, in bounds."""
    named = environ.get('COLUMNS', '')
    wanted = int(named) if re.fullmatch('[0-9]{1,6}', named) else terminal + 1  # core leaves the last column free
    return min(max(wanted, NARROWEST), WIDEST)


def refuse_all_facts(task_vars):
    """Fail where a node's facts hold a setting of ours: one of them says where the controller writes the report."""
    for host in task_vars['ansible_play_hosts_all']:
        try:
            refuse_facts(host, task_vars['hostvars'].raw_get(host).get('ansible_facts') or {})
        except ArtifactError as error:
            raise AnsibleActionFail(f'{error.message} No host was touched.') from None


def refuse_no_hosts(pattern, task_vars):
    """Fail where the hosts of *pattern* were asked for, and there is no inventory, or nothing in it.

    Ansible then has a host of its own, localhost, and calls a play for others a success.
    """
    if pattern not in ('', 'localhost') and not task_vars['groups']['all']:
        sources = ', '.join(map(clean, task_vars.get('ansible_inventory_sources') or ())) or 'no file'
        raise AnsibleActionFail(f'No host is {clean(pattern)}: the inventory ({sources}) holds none that can be read. '
                                'Name the file of your hosts with -i.')


class ActionModule(ActionBase):
    """Runs on the controller alone, once for all hosts."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _ignored, options = self.validate_argument_spec(
            {'of': {'type': 'str'}, 'path': {'type': 'str', 'default': ''},
             'title': {'type': 'str', 'default': 'K3s artifacts'}, 'hosts': {'type': 'str', 'default': ''},
             'check_only': {'type': 'bool', 'default': False}},
            required_if=[('check_only', False, ['of'])])
        if options['check_only']:
            refuse_no_hosts(options['hosts'], task_vars)
            refuse_all_facts(task_vars)
        problem = obstacle(options['path']) if options['path'] else ''
        if problem:
            raise AnsibleActionFail(problem)
        if options['check_only']:
            return {'changed': False}
        rows = self._rows(options['of'], task_vars)
        if options['path']:
            self._write(options['path'], rows, options['title'])
        display = Display()
        lines = table(rows, table_width(os.environ, display.columns), options['title'])
        if is_for_people(C.DEFAULT_STDOUT_CALLBACK, context.CLIARGS):
            for line in lines:
                display.display(line)
        # Without the mark of unsafe text, ansible-core up to 2.18 would evaluate templates in what nodes said.
        return wrap_var({'changed': False, 'msg': summary(rows), 'table': lines, 'hosts': rows,
                         'problems': {row['host']: row['problems'] for row in rows if row['problems']}})

    @staticmethod
    def _rows(name, task_vars):
        """Return the rows of all hosts of the play. Results are read raw: a node's text could be a template."""
        hostvars, in_play = task_vars['hostvars'], set(task_vars['ansible_play_hosts'])
        results = {host: hostvars.raw_get(host).get(name) for host in task_vars['ansible_play_hosts_all']}
        if not any(isinstance(results[host], Mapping) for host in in_play):
            raise AnsibleActionFail(f'No host has a result in the variable {clean(name)}. Give the option "of" the '
                                    'name that the task before registers.')
        return [host_row(host, result, host in in_play) for host, result in results.items()]

    @staticmethod
    def _write(path, rows, title):
        json_path, md_path = report_paths(path)
        try:
            write_private(json_path, json.dumps(report_data(rows, title), indent=2) + '\n')
            write_private(md_path, markdown(rows, title))
        except OSError as error:
            raise AnsibleActionFail(f'The report {clean(path)} cannot be written: {clean(error.strerror)}. No host was '
                                    'touched by this task; run the playbook again for the report.') from error
