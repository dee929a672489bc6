# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One copy for each site: a host of the site gets what its neighbours need, and they fetch it from there.

Documented in plugins/modules/relay.py. Nothing here makes a run fail: what no relay has is sent to each host.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import re
import shlex
import socket
import time
from collections.abc import Mapping
from types import SimpleNamespace

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display
from ansible.utils.unsafe_proxy import wrap_var

from ansible_collections.airgap.k3s.plugins.action.copy import (
    CAME, COMMON, Delivery, Job, StagingError, checked_path, mirror_of, plain, said)

display = Display()

STEPS = ('choose', 'serve', 'end')
LOOKUP = 'airgap.k3s.k3s_artifact'
RELAY_DIRECTORY = '/var/tmp/k3s-artifact-relay'
RELAY_PORT = 8642
RELAY_SECONDS = 7200
SUCCESSORS = 3  # hosts that serve a file after the relay has failed

# The folder of a relay belongs to who stages, and to nobody else: /var/tmp is everybody's. Its server is ended by the
# process that started it, when the file "alive" of this run is gone or the time is up.
#   takes   folder; for serve: port, addresses to try in order, told: those only, seconds, limit: of starting; for give:
#           a digest and a file
#   answers address; or failed and reason
RELAY = COMMON + r'''
fail() { say failed "$1"; exit 1; }
own() { [ -d "$folder" ] && [ ! -L "$folder" ] && [ "$(stat -c %u "$folder")" = "$(id -u)" ]; }
port_is_open() {
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        grep -Eq "^ *[0-9]+: [0-9A-F]+:$(printf %04X "$port") [0-9A-F]+:0000 0A"
}
open_folder() {
    mkdir -p "${folder%/*}" && { mkdir "$folder" 2>/dev/null || own; } || fail "$folder is not a folder of $(id -un)"
    chmod 0755 "$folder" && rm -f "$folder"/alive.* && mkdir -p "$folder/files" || fail "$folder cannot be used"
    say end yes
}
give() {
    [ -f "$2" ] && [ ! -L "$2" ] || return 0
    ln -f "$2" "$folder/files/$1" 2>/dev/null || cp "$2" "$folder/files/$1"
}
has_python() { command -v python3 >/dev/null 2>&1; }
has_httpd() { for httpd in 'busybox httpd' httpd; do $httpd --help 2>&1 | grep -q BusyBox && return; done; return 1; }
listen() {
    cd "$folder/files" || exit 1
    ! has_python || exec python3 -I -m http.server "$port" --bind "$1" --directory "$folder/files"
    case $1 in *:*) set -- "[$1]" ;; esac
    has_httpd && exec $httpd -f -p "$1:$port" -h "$folder/files"
}
serve() {
    own || fail "$folder is gone"
    has_python || has_httpd || fail 'the node has neither python3 nor httpd of BusyBox'
    n=0
    while port_is_open; do n=$(( n + 1 )); [ "$n" -lt 5 ] || fail "port $port is in use"; sleep 1; done
    alive=$folder/alive.$word
    [ -n "$told" ] || addresses="$addresses $(set -- $SSH_CONNECTION; printf %s "$3") $(hostname -I || hostname -i)"
    # What is the node's alone comes last: a node behind a tunnel has nothing else in the inventory.
    last=
    for a in $addresses; do case $a in 127.*|::1) last="$last $a" ;; *) set -- "$@" "$a" ;; esac; done
    for a in "$@" $last; do
        : >"$alive"
        { trap '' HUP
          ( listen "$a" ) & s=$!
          t=0
          while [ -e "$alive" ] && kill -0 "$s" && [ "$t" -lt "$seconds" ]; do sleep 1; t=$(( t + 1 )); done
          kill "$s"
          if [ -e "$alive" ] && [ "$t" -gt "$limit" ]; then rm -rf "$folder"; fi
          rm -f "$alive"; } </dev/null >/dev/null 2>&1 &
        n=0
        while [ -e "$alive" ] && [ "$n" -lt "$limit" ]; do
            if port_is_open; then say address "$a"; say end yes; exit 0; fi
            sleep 1; n=$(( n + 1 ))
        done
        rm -f "$alive"
    done
    fail "it cannot listen on port $port of the address that its neighbours use. Set k3s_artifact_relay_address"
}
end_relay() {
    if own; then rm -f "$folder"/alive.*; rm -rf "$folder"; fi
    n=0
    while port_is_open && [ "$n" -lt 5 ]; do sleep 1; n=$(( n + 1 )); done
    say end yes
}
'''


# --- plain data ------------------------------------------------------------------------------------------------------


def site_of(host, value):
    """Return the site that the variable k3s_artifact_site of *host* says, '' for none."""
    if value is None or value == '':
        return ''
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise StagingError(f'k3s_artifact_site of {host} is {value!r}. Write the name of its site.')
    return str(value)


def port_of(host, value):
    if not re.fullmatch(r'[1-9][0-9]{0,4}', str(value)) or int(value) > 65535:
        raise StagingError(f'k3s_artifact_relay_port of {host} is {value!r}. Write the number of a port.')
    return int(value)


def count_of(host, name, value):
    if not re.fullmatch(r'[1-9][0-9]{0,5}', str(value)):
        raise StagingError(f'{name} of {host} is {value!r}. Write a number, 1 or more.')
    return int(value)


def chosen(hosts):
    """Choose who serves what at each site.

    hosts: what look found, by host, in the order of the inventory. Returns (relays, sources, warnings). relays: by
    host, what it "has" (path by digest) and what is to be brought to it (the rows of look). sources: by site, the host
    that serves each digest. A file that one host needs and none has is not worth a relay.
    """
    sites, relays, sources, warnings = {}, {}, {}, []
    for host, known in hosts.items():
        if known.get('site') and not known['problems'] and not known['unreachable']:
            sites.setdefault(known['site'], {})[host] = known
    for site, members in sites.items():
        needed, has, rows = {}, {}, {}
        for host, known in members.items():
            for row in known['files']:
                if row['installed'] == 'same':
                    has.setdefault(row['sha256'], (host, row['dest']))
                elif row['bytes_to_send']:
                    needed.setdefault(row['sha256'], []).append(host)
                    rows[row['sha256']] = row
        served = {sha256: has[sha256][0] for sha256 in needed if sha256 in has}
        missing = {sha256: rows[sha256] for sha256, of in needed.items() if sha256 not in has and len(of) > 1}
        size = sum(row['size'] for row in missing.values())
        relay = next((host for host, known in members.items()
                      if (known['relay_free'] or 0) >= size + known['bytes_to_send']), None)
        if missing and relay is None:
            warnings.append(f'no host of the site {site} has room for {size} bytes more, so none of them is its relay: '
                            f'every host is sent its own files.')
        elif missing:
            served.update(dict.fromkeys(missing, relay))
        for sha256, host in served.items():
            mine = relays.setdefault(host, {'has': {}, 'bring': []})
            if sha256 in has:
                mine['has'][sha256] = has[sha256][1]
            else:
                mine['bring'].append({name: missing[sha256][name] for name in ('source', 'size', 'sha256')})
        sources[site] = served
    return relays, sources, warnings


def file_to_bring(row):
    """Return the artifact for a row of :func:`chosen`, whatever machine it is for; None for what is no such row."""
    if not isinstance(row, Mapping) or not isinstance(row.get('size'), int) or not isinstance(row.get('source'), str):
        return None
    if not re.fullmatch('[0-9a-f]{64}', str(row.get('sha256'))) or '\0' in row['source']:
        return None
    return SimpleNamespace(source=row['source'], size=row['size'], sha256=row['sha256'], machine='', arch=None,
                           version='')


def found_at_site(variables, names, host, site):
    """Return what relays of a *site* have: (digests, addresses by digest, how what is on *host* came there by digest).

    digests: of all files that a relay was chosen for. An address is a path where *host* itself is the relay.
    names: of the variables that the steps choose and serve registered.
    """
    hostvars, addresses, came = variables['hostvars'], {}, {}
    relays = variables.get(names[0])
    sources = relays.get('sources') if isinstance(relays, Mapping) else None
    sources = sources.get(site) if isinstance(sources, Mapping) else None
    sources = sources if isinstance(sources, Mapping) else {}
    for relay in set(sources.values()):
        served = (hostvars.raw_get(relay) if relay in hostvars else {}).get(names[1])
        files = served.get('files') if isinstance(served, Mapping) else None
        for sha256, how in files.items() if isinstance(files, Mapping) else ():
            if sources.get(sha256) == relay and re.fullmatch('[0-9a-f]{64}', sha256):
                folder = f'{served.get("folder")}/files' if relay == host else served.get('url')
                addresses[sha256] = f'{folder}/{sha256}'
                came.update({sha256: how} if relay == host else {})
    return set(sources), addresses, came


def short(site):
    """Return a part of a file's name that stands for a site."""
    return hashlib.sha256(site.encode()).hexdigest()[:16]


@contextlib.contextmanager
def turn(site, forks):
    """Wait until fewer than *forks* hosts of a *site* have something crossing its link in this run."""
    places = [os.path.join(C.DEFAULT_LOCAL_TMP, f'k3s-artifact-turn-{short(site)}-{number}') for number in range(forks)]
    while True:
        for place in places:
            with open(place, 'a', encoding='ascii') as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                yield
                return
        time.sleep(0.1)


class Site:
    """The site of one host: where at it a file is, and who serves it next when its relay fails.

    Then one host after the other comes to its turn, and the one that is sent the file serves it to those that wait.
    Who serves is noted in a file of this run on the controller; no more than SUCCESSORS try that for a file.
    """

    def __init__(self, name, digests, addresses):
        self.name, self._digests, self._addresses = name, digests, addresses
        self._turn, self._relay, self.is_in_turn = contextlib.ExitStack(), None, False

    @contextlib.contextmanager
    def turn(self):
        """Give the turn back that asking for addresses may have taken."""
        try:
            with self._turn:
                yield
        finally:
            self.is_in_turn = False

    def addresses(self, sha256):
        """Yield where the host may find a file: its relay first, then who has it by the time that its turn has come."""
        if sha256 not in self._digests:
            return
        if sha256 in self._addresses:
            yield self._addresses[sha256]
            self._addresses = {}  # it failed, and is not asked for anything else
        if not self.is_in_turn:
            self._turn.enter_context(turn(f'{self.name} without its relay', 1))
            self.is_in_turn = True
        yield from [address for address in self._noted().get(sha256, []) if address][-1:]

    def serve(self, relay, sha256, path):
        """Let *relay*, the :class:`Relay` of a host that was sent a file, serve it to the others of its site."""
        noted = self._noted()
        if sha256 not in self._digests or len(noted.get(sha256, [])) >= SUCCESSORS:
            return
        address = ''  # of one who tried and could not
        try:
            if self._relay is None:
                relay.open()
                self._relay = relay.serve()
            relay.give({sha256: path})
            address = f'{self._relay}/{sha256}'
        finally:
            noted.setdefault(sha256, []).append(address)
            with open(self._note, 'w', encoding='utf-8') as file:
                json.dump(noted, file)

    @property
    def _note(self):
        return os.path.join(C.DEFAULT_LOCAL_TMP, f'k3s-artifact-relays-{short(self.name)}.json')

    def _noted(self):
        with contextlib.suppress(FileNotFoundError), open(self._note, encoding='utf-8') as file:
            return json.load(file)
        return {}


# --- a host ----------------------------------------------------------------------------------------------------------


class Relay:
    """The folder of a relay on the node of *delivery*, and its server. setting: gives the value of a variable."""

    def __init__(self, host, delivery, setting, ansible_host):
        self._host, self._delivery, self._setting, self._ansible_host = host, delivery, setting, ansible_host
        self.folder = checked_path(host, 'k3s_artifact_relay_dir', setting('k3s_artifact_relay_dir', RELAY_DIRECTORY))
        self._port = port_of(host, setting('k3s_artifact_relay_port', RELAY_PORT))
        self._seconds = count_of(host, 'k3s_artifact_relay_seconds',
                                 setting('k3s_artifact_relay_seconds', RELAY_SECONDS))

    def open(self):
        self._ask('open_folder', 'make the folder of the relay')

    def give(self, paths):
        """Take files of the node, paths by digest, into the folder."""
        calls = ''.join(f'give {sha256} {shlex.quote(path)}\n' for sha256, path in paths.items()
                        if re.fullmatch('[0-9a-f]{64}', sha256))
        if calls:
            self._ask(f'{calls}say end yes', f'take {len(paths)} files into the folder of the relay')

    def serve(self):
        """Start the server; return its address."""
        found = self._ask('serve', f'serve {self.folder} to its site', seconds=self._seconds,
                          addresses=' '.join(self._addresses()), told=self._setting('k3s_artifact_relay_address', ''))
        address = ipaddress.ip_address(found.get('address', [''])[-1])
        return f'http://[{address}]:{self._port}' if address.version == 6 else f'http://{address}:{self._port}'

    def end(self):
        self._ask('end_relay', 'end the relay')

    def _addresses(self):
        """Return the addresses that its neighbours may use, the likeliest first."""
        told = self._setting('k3s_artifact_relay_address', '')
        try:
            found = [entry[4][0] for entry in socket.getaddrinfo(str(told or self._ansible_host or self._host), None,
                                                                 type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError):
            found = []
        if told and not found:
            raise StagingError(f'k3s_artifact_relay_address of {self._host} is {told!r}. Write an address of it.')
        return [address for address in dict.fromkeys(found) if '%' not in address]

    def _ask(self, call, what, **values):
        """Run a verb of RELAY; return its answers, or fail with what it says."""
        found, result = self._delivery.ask(RELAY + call, what, folder=self.folder, port=self._port, **values)
        if 'end' not in found:
            raise StagingError(f'{found.get("failed", [said(result)])[-1]}.')
        return found


class ActionModule(ActionBase):

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self._vars, self._host = task_vars, to_text(task_vars['inventory_hostname'])
        step, name = self._task.args.get('step'), self._task.args.get('of')
        if set(self._task.args) - {'step', 'of'} or step not in STEPS or (step != 'end' and not isinstance(name, str)):
            raise AnsibleActionFail(f'relay takes the options step, which is one of {", ".join(STEPS)}, and of, the '
                                    f'name of a variable. It got {self._task.args!r}.')
        if step == 'choose':
            return self._choose(name)
        if self._task.check_mode:
            return {'changed': False}
        try:
            return wrap_var({'changed': False, **getattr(self, f'_{step}')(self._vars.get(name))})
        except (AnsibleError, ValueError) as error:
            what = {'serve': 'is no relay for its site', 'end': 'may still have the folder and the server of a relay, '
                    'which end by themselves'}[step]
            text = plain(f'{self._host} {what}: {to_text(error)}', 2000)
            display.warning(text)
            return wrap_var({'changed': False, 'msg': text})

    def _choose(self, name):
        """Choose the relays of all sites, from what the step look of stage registered on all hosts of the batch."""
        hostvars, hosts = self._vars['hostvars'], {}
        for host in self._vars['ansible_play_batch']:
            looked = hostvars.raw_get(host).get(name)
            known = looked.get('k3s_artifact') if isinstance(looked, Mapping) else None
            if isinstance(known, Mapping) and known.get('site'):
                hosts[host] = known
        relays, sources, warnings = chosen(hosts)
        for text in warnings:
            display.warning(text)
        return wrap_var({'changed': False, 'relays': relays, 'sources': sources})

    def _relay(self):
        lookup = lookup_loader.get(LOOKUP, loader=self._loader, templar=self._templar).prepare(self._vars)
        mirror = mirror_of(self._host, lookup.setting, lambda: lookup.root)
        self._delivery = Delivery(self, self._host, lookup.arch_of, lookup.elf_arch, mirror)
        return Relay(self._host, self._delivery, lookup.setting, self._vars.get('ansible_host'))

    def _serve(self, relays):
        """Bring here what this host has to serve, and serve it."""
        mine, relay = relays['relays'][self._host], self._relay()
        relay.open()
        url = relay.serve()  # first, so that nothing is sent to one that cannot
        came = {row['sha256']: self._brought(row, relay.folder) for row in mine['bring']}
        relay.give(mine['has'])
        return {'url': url, 'folder': relay.folder, 'files': {**dict.fromkeys(mine['has'], 'there'), **came}}

    def _brought(self, row, folder):
        """Bring one file into the folder of the relay; return how it came."""
        artifact = file_to_bring(row)
        if artifact is None:
            raise StagingError('what the step choose noted is not what it notes.')
        job = Job(artifact, 'script', f'{folder}/files/{artifact.sha256}', '0644', None, None, trial=False)
        node, = self._delivery.look(job.target)
        node = node._replace(arch=None)  # the file is for whatever machine
        planned = self._delivery.plan(job, node)
        if planned.refusal:
            raise StagingError(f'{planned.refusal}.')
        if planned.action == 'nothing':
            return 'there'
        _report, way = self._delivery.send_and_install(job, node, planned)
        return CAME[way]

    def _end(self, _none):
        self._relay().end()
        return {}
