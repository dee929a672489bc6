# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that ansible-core does not promise: what happens in a release that has one of them no more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import support

copy = support.load_plugin('plugins/action/copy.py')
NATIVE, MACHINE = support.NATIVE, support.MACHINES[support.NATIVE]
OLD = support.program('k3s version v1.30.0+k3s1 (old)')

# Gives a name of ansible-core another one, in Ansible's own process and before the first task.
RENAMES = """
import gc, importlib, types
from ansible.plugins.callback import CallbackBase
module, _, owner = {owner!r}.rpartition('.')
owner, name = getattr(importlib.import_module(module), owner), {name!r}
setattr(owner, name + '_of_another_release', getattr(owner, name))
delattr(owner, name)
for function in [each for each in gc.get_objects() if isinstance(each, types.FunctionType)
                 and each.__module__ == owner.__module__]:
    names = function.__code__.co_names
    function.__code__ = function.__code__.replace(
        co_names=tuple(each + '_of_another_release' if each == name else each for each in names))
class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = 'aggregate'
    CALLBACK_NAME = 'renames'
"""
ACTION, SSH, TEMPLAR = ('ansible.plugins.action.ActionBase', 'ansible.plugins.connection.ssh.Connection',
                        'ansible.template.Templar')


def staged_without(standin, owner, name, variables=None, arguments=None, **play):
    """Run the task with a release of ansible-core that lacks a name, and check that the node is right in any case."""
    callbacks = standin.folder / 'callback_plugins'
    callbacks.mkdir()
    (callbacks / 'renames.py').write_text(RENAMES.format(owner=owner, name=name))
    source = standin.folder / 'airgap' / support.BINARIES[NATIVE]
    run = standin.stage({'node': standin.host('node', MACHINE, OLD, **(variables or {}))},
                        {'name': 'stage', 'copy': {'src': str(source), **(arguments or {})}}, **play)
    assert 'Traceback' not in run.output and 'has no attribute' not in run.output, run.output
    entry, = [entry for entry in run.results if entry['task'] == 'stage']
    staged = entry['status'] == 'ok'
    assert standin.installed('node').read_bytes() == (source.read_bytes() if staged else OLD), run.output
    return entry['result']


@pytest.mark.parametrize(('owner', 'name', 'variables'), [
    (ACTION, '_low_level_execute_command', {}),
    (ACTION, '_make_tmp_path', {'ansible_connection': 'local'}),
    (ACTION, '_remote_expand_user', {'k3s_artifact_images_dest': ''})])
def test_without_a_name_that_is_needed_the_task_says_so_and_changes_nothing(standin, owner, name, variables):
    arguments = {}
    if name == '_remote_expand_user':
        archive = next((standin.folder / 'airgap').glob(f'*images-{NATIVE}.tar.zst'))
        arguments = {'src': str(archive), 'dest': '~/k3s/agent/images/'}
    result = staged_without(standin, owner, name, variables, arguments)
    assert f'this release of ansible-core has no {name}, which copy needs to' in result['msg']
    assert 'Nothing was changed.' in result['msg']


@pytest.mark.parametrize(('owner', 'name', 'way'), [
    (ACTION, '_make_tmp_path', 'stream'), (ACTION, '_remote_expand_user', 'stream'), (ACTION, '_find_needle', 'stream'),
    (ACTION, '_is_become_unprivileged', 'stream'), (SSH, '_send_initial_data', 'put_file'),
    (TEMPLAR, 'copy_with_new_env', 'stream')])
def test_without_a_name_that_can_be_done_without_the_binary_arrives(standin, owner, name, way):
    result = staged_without(standin, owner, name)
    assert (result['k3s_artifact']['way'], result['changed']) == (way, True)


def test_without_knowing_who_is_unprivileged_only_root_is_not():
    def action(**names):
        return SimpleNamespace(_connection=SimpleNamespace(**names))

    def becoming(user):
        return SimpleNamespace(get_option={'become_user': user}.get)
    assert [copy.becomes_unprivileged(action(become=become)) for become in (
        None, becoming('root'), becoming(None), becoming('me'))] == [False, False, False, True]


def test_without_the_shell_of_a_connection_a_sentence_says_what_is_missing():
    with pytest.raises(copy.StagingError, match='this release of ansible-core has no _shell'):
        copy.shell_of(SimpleNamespace())


def test_without_the_written_task_or_its_loop_nothing_is_known_of_them():
    assert copy.written_arguments(SimpleNamespace()) == {}
    assert copy.written_arguments(SimpleNamespace(get_ds=lambda: None)) == {}
    assert copy.loop_keyword(SimpleNamespace()) is None
