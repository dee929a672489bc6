# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What bench.json says: the figures with their aims, the tables of docs/speed.md, and the plot.

    tables.py    write docs/speed.md anew from bench.json

bench.json has, for each table, its unit, the run that measured it, and for each method all values and their median.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'bench.json'
DOCUMENT = ROOT / 'docs' / 'speed.md'

NEW, OLD = 'k3s_artifact', 'k3s_artifact before'
CORE, UNCOMPRESSED = 'ansible.builtin.copy', 'ansible.builtin.copy without -C'
SCP, RAW, FACTS = 'scp', 'raw: true', 'facts only'
RESUMED = ', next run after a drop at 90 %'
NOISE = 'noise'  # in place of a ratio, where one of the two is not longer than gathering facts alone
COUNTS = (1, 2, 5, 10, 20)  # nodes, in the plot

# Table, method, over which other, and the aim: the largest ratio of their medians that is good enough, if any.
RATIOS = (
    ('first staging', NEW, CORE, 0.30), ('first staging', NEW, SCP, 1.15), ('first staging', NEW, OLD, 1.03),
    ('nothing to do', NEW, CORE, 0.40), ('nothing to do', NEW, RAW, 2.2), ('nothing to do', NEW, OLD, 0.90),
    ('first staging, with facts', NEW, CORE, 0.30), ('first staging, with facts', NEW, SCP, 1.15),
    ('first staging, with facts', NEW, OLD, 1.03),
    ('nothing to do, with facts', NEW, CORE, 0.40), ('nothing to do, with facts', NEW, OLD, 0.90),
    ('image archives', NEW, CORE, 0.20), ('image archives', NEW, OLD, 1.03),
    ('20 Mbit/s', NEW, CORE, None), ('20 Mbit/s', NEW, SCP, None), ('20 Mbit/s', NEW, OLD, 1.03),
    ('20 Mbit/s', NEW + RESUMED, SCP, None), ('20 Mbit/s', NEW + RESUMED, OLD + RESUMED, 1.03),
    ('resolve 1,000 hosts', NEW, OLD, 1.03), ('memory of a fork', NEW, OLD, None),
    ('pretend hosts', 'preflight, 150', RAW + ' four times, 150', 2.0),
    ('pretend hosts', 'preflight, 300', RAW + ' four times, 300', 2.0),
    ('pretend hosts', 'preflight, 300', 'preflight, 150', 2.1), ('pretend hosts', 'stage, 300', 'stage, 150', 2.1),
    ('pretend hosts', 'preflight, 150', 'preflight before, 150', 1.03),
    ('pretend hosts', 'stage, 150', RAW + ' four times, 150', None),
    ('data on the disk', NEW, 'without', None),
)


class Figure(NamedTuple):
    """One line of the summary. A figure without an aim is only said; one that is nothing but noise reaches none."""

    text: str
    measured: float | str
    aim: float | None

    @property
    def reached(self):
        if self.aim is None:
            return ''
        return 'UNCLEAR' if self.measured == NOISE else 'reached' if self.measured <= self.aim else 'MISSED'


def figures(tables):
    """Return the :class:`Figure` of all that was measured, in the order in which people ask."""
    def median(table, name):
        return tables[table]['methods'][name]['median']
    found = []
    for table, name, over, aim in RATIOS:
        with contextlib.suppress(KeyError):
            # In a play that gathers facts, what counts is the time beyond one that does nothing else; scp gathers none.
            methods = tables[table]['methods']
            base = methods.get(FACTS, {'median': 0})['median']
            above, floor = methods[name]['median'] - base, methods[over]['median'] - (0 if over == SCP else base)
            text = f'{table}{", beyond the facts" if base else ""}: {name} against {over}'
            found.append(Figure(text, round(above / floor, 3) if min(above, floor) > 0 else NOISE, aim))
    with contextlib.suppress(KeyError):
        for name, aim in ((NEW, 1.02), (CORE, None)):
            sent = tables['image archives']['bytes'][name]
            found.append(Figure(f'image archives: bytes sent by {name} against bytes needed',
                                round(sorted(sent)[len(sent) // 2] / tables['image archives']['needed'], 3), aim))
    with contextlib.suppress(KeyError):
        above = median('resolve 1,000 hosts', NEW) - median('resolve 1,000 hosts', 'without the lookup')
        found.append(Figure('resolve 1,000 hosts: milliseconds a host', round(above, 2) if above > 0 else NOISE, 3))
    with contextlib.suppress(KeyError):
        above = median('memory of a fork', NEW) - median('memory of a fork', CORE)
        found.append(Figure('memory of a fork: MB above copy', round(above, 1), 15))
    with contextlib.suppress(KeyError):
        safety = 'cost of a safety on a node'
        found.append(Figure('second uname: milliseconds', round(median(safety, 'uname -m, 100 times') / 100, 2), None))
        found.append(Figure('65 MB on the disk: milliseconds',
                            round(median(safety, 'write 65 MB, fsync') - median(safety, 'write 65 MB'), 1), None))
        found.append(Figure('the rename on the disk: milliseconds', median(safety, 'sync of the folder'), None))
    return found


def printed(found):
    """Return the figures as lines for a terminal."""
    width = max((len(figure.text) for figure in found), default=0)
    return [f'{each.text:<{width}} {each.measured:>8} {wish(each):<9} {each.reached}'.rstrip() for each in found]


def wish(figure):
    return '' if figure.aim is None else f'aim {figure.aim}'


# --- docs/speed.md


def render(text, tables):
    """Return a document with what is between ``<!-- bench: NAME -->`` and ``<!-- end -->`` written anew."""
    def block(match):
        return f'{match.group(1)}\n' + '\n'.join(lines_for(match.group(2), tables)) + '\n<!-- end -->'
    return re.sub(r'(<!-- bench: (.*?) -->)\n.*?<!-- end -->', block, text, flags=re.DOTALL)


def lines_for(name, tables):
    """Return the Markdown of one block: ``aims``, ``runs``, or the name of a table."""
    if name == 'aims':
        rows = [[figure.text, figure.measured, wish(figure), figure.reached] for figure in figures(tables)]
        return grid(['figure', 'measured', '', ''], rows) if rows else ['Not measured yet.']
    if name == 'runs':
        runs = {json.dumps(table['run']): table['run'] for table in tables.values()}
        lines = ['- ' + ', '.join(f'{key} {value}' for key, value in run.items()) for run in runs.values()]
        return lines or ['Not measured yet.']
    if name not in tables:
        return ['Not measured yet.']
    methods, base = tables[name]['methods'], tables[name]['methods'].get(FACTS)
    header, rows = ['', tables[name]['unit']], []
    if base:
        header.append('beyond the facts')
    for method, values in methods.items():
        taken = 0 if method == SCP else base['median'] if base else 0
        rows.append([method, readable(values['median'])] + ([readable(values['median'] - taken)] if base else []))
    return grid(header, rows)


def readable(value):
    return f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def grid(header, rows):
    return ['| ' + ' | '.join(map(str, row)) + ' |' for row in (header, ['---'] * len(header), *rows)]


def read(path=RESULTS):
    return json.loads(path.read_text(encoding='utf-8'))['tables'] if path.exists() else {}


def write_document(tables, path=DOCUMENT):
    path.write_text(render(path.read_text(encoding='utf-8'), tables), encoding='utf-8')


def plot(tables, path):
    """Draw seconds against number of nodes for every method."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for name in tables[f'{COUNTS[0]} nodes']['methods']:
        seconds = [tables[f'{count} nodes']['methods'][name]['median'] for count in COUNTS]
        axes.plot(COUNTS, seconds, marker='o', label=name)
    axes.set(xlabel='nodes (all on one machine)', ylabel='seconds', title='First staging of a 65 MB binary',
             xticks=COUNTS, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == '__main__':
    write_document(read())
