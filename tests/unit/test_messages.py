# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every sentence that the plugins can say has its entry in docs/troubleshooting.md, and each entry is one of ours."""

from __future__ import annotations

import ast
import re

import pytest

import pages
import support

PLUGINS = [*sorted((support.ROOT / 'plugins' / 'action').glob('*.py')),
           *sorted((support.ROOT / 'plugins' / 'plugin_utils').glob('*.py')),
           support.ROOT / 'plugins' / 'lookup' / 'k3s_artifact.py']
PLAYBOOKS = sorted((support.ROOT / 'playbooks').glob('*.yml'))
TROUBLES = pages.DOCS / 'troubleshooting.md'
ENTRIES = [text for row in pages.rows(TROUBLES, 'message') for text in re.findall('`([^`]+)`', row[0])]
GAP = '…'  # in a message, what is filled in

# What is in the code in words and is nobody's trouble: for -vvv, for the report, parts of a sentence with an entry.
NO_MESSAGES = (
    r'^put … files', r'^set the attributes$', r'^(stream|install) … from', r's left$',
    r'^What was at … before|^Nothing is at …$', r'^eval ', r', on a terminal$', r'MB/s, …\)$',
    r'^K3s … … in … for …\.$', r'^…… …, … files, K3s', r'^without a version$',
    r'^-o ', r'^… \(…-bit', r'^host … \(machine', r'^become to an unprivileged user$', r'^it holds no K3s binary$',
    r'^k3s_artifact_\w+ to a (folder|file)$', r'^(Left out of|No longer needed on) the', r'^no longer needed$',
    r'^(K3s has -> gets|K3s it (gets|has)|bytes to send)$', r'^-----(BEGIN|END) PGP', r'\(\?P<|\]\{|\\w',
    r'^… problems, … to send\.$',
    r'^All … files in … are those that were signed$', r'^of no known release$',
    r'^No bad file among the … in …, of which … are in a checksum list that nobody vouches for$',
    r'^no reason given$', r', and is not looked for under this name$',
    # what is done on a node, for -vvv and after "cannot"
    r'^(know|look at|make a temporary|run a command|end|make the folder of|serve … to|take … files into)',
    r'^(bring a secret|forget what|list the images|look for packages|look what|remove what)',
    r'^export ', r'say end yes$',
    # names of things, in a sentence that has an entry
    r'^the relay of', r'^… without its relay$', r'^is no relay for its site$', r'^\(there is none\)$',
    r'^it is another file$', r'^a shell that is not POSIX$', r'^no machine that is known$',
    r'^images for another platform$', r'^No longer needed, and removed',
    # what to do, after a sentence that has an entry; parts of such sentences
    r'^(Put|Replace it|Set|Install it|Unpack|Download the|Check|If it is for other) ', r'^as in -e ',
    r'^k3s_download_ca_path is …, and$', r'^holds no K3s version$', r'^is an HTML$', r'^It was not put in place$',
    r'^…: …\. Nothing was changed\.$')


def sentences(path):
    """Return the texts in the code of a plugin, a gap for each value that is filled in."""
    tree = ast.parse(path.read_text())
    parts, texts = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'KNOWN_VARIABLES':
            parts |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            parts.add(id(node.value))
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') in ('v', 'vv', 'vvv', 'vvvv', 'compile'):
            parts |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.JoinedStr):
            for value in node.values:  # what is filled in may be texts with a sentence of their own
                if isinstance(value, ast.Constant):
                    parts.add(id(value))
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.JoinedStr):
            texts.append(''.join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(re.sub(r'%\w', GAP, node.value))
    return {text.strip() for text in texts if '\n' not in text}


TEXTS = sorted(set().union(*map(sentences, PLUGINS)))
SAID = [text for text in TEXTS if len([word for word in text.split() if re.search('[A-Za-z]', word)]) >= 3]


def pattern(entry):
    """Return what finds an entry of the page in a sentence: its words, with something filled in for each gap."""
    gap = rf'[^.]*?{GAP}[^.]*?'
    return re.compile(gap.join(re.escape(part.strip()) for part in entry.split(GAP)), re.DOTALL)


def test_there_are_sentences_and_entries():
    assert len(SAID) > 200 and len(ENTRIES) > 150


@pytest.mark.parametrize('sentence', SAID)
def test_every_sentence_of_the_plugins_has_an_entry(sentence):
    """Else: add a row to docs/troubleshooting.md, or name it in NO_MESSAGES where it is not about a trouble."""
    no_message = any(re.search(one, sentence) for one in NO_MESSAGES)
    assert no_message or any(pattern(entry).search(sentence) for entry in ENTRIES), sentence


@pytest.mark.parametrize('entry', ENTRIES)
def test_every_entry_is_a_sentence_of_ours(entry):
    playbooks = [re.sub(r"' ~ .*? ~ '", GAP, ' '.join(path.read_text().split())) for path in PLAYBOOKS]
    assert any(pattern(entry).search(text) for text in TEXTS + playbooks), entry


@pytest.mark.parametrize('entry', ENTRIES)
def test_every_entry_has_words_enough_to_be_that_sentence_and_no_other(entry):
    assert len(re.findall('[A-Za-z]{2,}', entry)) >= 2, entry
    assert sum(bool(pattern(entry).search(text)) for text in SAID) <= 6, entry


def test_no_entry_is_there_twice_and_each_says_cause_and_remedy():
    assert sorted(set(ENTRIES)) == sorted(ENTRIES)
    for row in pages.rows(TROUBLES, 'message'):
        assert len(row) == 3 and all(row), row


@pytest.mark.parametrize('one', NO_MESSAGES)
def test_what_is_no_message_is_in_the_code(one):
    assert any(re.search(one, text) for text in SAID), one
