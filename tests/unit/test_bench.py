# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmark says about its measurements."""

from __future__ import annotations

import support

tables = support.load_plugin('benchmarks/tables.py')


def table(unit='seconds', **medians):
    """Return a table as bench.json has it; the keywords are methods by the names of tables.py."""
    methods = {getattr(tables, name): {'values': [value], 'median': value} for name, value in medians.items()}
    return {'unit': unit, 'run': {'commit': 'abc'}, 'methods': methods}


def figure(measured, name, over):
    found = [each for each in tables.figures(measured) if each.text.endswith(f': {name} against {over}')]
    assert len(found) == 1
    return found[0]


def test_an_aim_is_reached_up_to_its_value_and_missed_above_it():
    for ours, said in ((10.3, 'reached'), (10.4, 'MISSED')):
        assert figure({'first staging': table(NEW=ours, OLD=10)}, tables.NEW, tables.OLD).reached == said


def test_what_was_not_measured_is_not_in_the_summary():
    assert tables.figures({}) == []
    found = tables.figures({'nothing to do': table(NEW=1, RAW=1)})
    assert [each.text for each in found] == ['nothing to do: k3s_artifact against raw: true']


def test_facts_are_taken_off_both_sides_but_not_off_scp_which_gathers_none():
    measured = {'first staging, with facts': table(FACTS=6, NEW=10, OLD=8, SCP=4)}
    assert figure(measured, tables.NEW, tables.OLD).measured == 2
    assert figure(measured, tables.NEW, tables.SCP).measured == 1


def test_a_difference_that_is_noise_reaches_no_aim():
    for medians in ({'NEW': 5, 'OLD': 8}, {'NEW': 7, 'OLD': 6}):
        found = figure({'nothing to do, with facts': table(FACTS=6, **medians)}, tables.NEW, tables.OLD)
        assert (found.measured, found.reached) == (tables.NOISE, 'UNCLEAR')


def test_a_document_is_written_anew_between_its_marks_and_nowhere_else():
    text = ('above\n<!-- bench: nothing to do -->\nold\nfigures\n<!-- end -->\n'
            'between\n<!-- bench: aims -->\n<!-- end -->\nbelow\n')
    rendered = tables.render(text, {'nothing to do': table(NEW=1, RAW=12.34)})
    assert rendered.splitlines() == [
        'above', '<!-- bench: nothing to do -->', '|  | seconds |', '| --- | --- |', '| k3s_artifact | 1.00 |',
        '| raw: true | 12.3 |', '<!-- end -->', 'between', '<!-- bench: aims -->', '| figure | measured |  |  |',
        '| --- | --- | --- | --- |', '| nothing to do: k3s_artifact against raw: true | 0.081 | aim 2.2 | reached |',
        '<!-- end -->', 'below']
    assert tables.render(rendered, {'nothing to do': table(NEW=1, RAW=12.34)}) == rendered
    assert tables.render(rendered, {}).count('Not measured yet.') == 2


def test_the_page_about_speed_says_what_the_last_run_measured():
    text = tables.DOCUMENT.read_text()
    assert tables.render(text, tables.read()) == text
