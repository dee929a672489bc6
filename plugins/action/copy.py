# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Override copy: a K3s binary or image archive that is on its way to a node is the one that is right for that node.

Two rooms: :class:`ActionModule` decides whether a task stages a file and which, :class:`Delivery` brings it to the
node in four steps, look, plan, send and install. Everything else is left to ansible-core's own copy. The documentation
for users is that of the module copy.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import os
import re
import secrets
import select
import shlex
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ansible.plugins.action
import ansible.plugins.connection
from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError, AnsibleLookupError
from ansible.module_utils.common.text.converters import to_text
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display
from ansible.utils.unsafe_proxy import wrap_var

display = Display()
# Compiled here, in Ansible's own process, and not again in that of each host. Not found yet is no error.
OWN_COLLECTION = '.'.join(__name__.split('.')[1:3]) if __name__.startswith('ansible_collections.') else ''
lookup_loader.get(f'{OWN_COLLECTION}.k3s_artifact'.lstrip('.'), class_only=True)

INSTALL_PATH = '/usr/local/bin/k3s'
INSTALL_SCRIPT_NAME = 'k3s-install.sh'
PREVIOUS = '.previous'  # after the name of the binary that is replaced, where k3s_artifact_keep_previous keeps it
IMAGES_DIRECTORY = '/agent/images'  # below K3s's data directory, /var/lib/rancher/k3s unless --data-dir moves it
ARCHIVE_SUFFIXES = ('.tar.zst', '.tzst', '.tar.gz', '.tgz', '.tar', '.tar.bz2', '.tbz', '.tar.lz4')

# What the install program does itself. A task that says anything else is handed to ansible-core's copy.
OWN_ARGUMENTS = frozenset(('src', 'dest', 'mode', 'owner', 'group', 'decrypt', 'directory_mode', 'local_follow'))
OWN_DEFAULTS = {'backup': False, 'force': True, 'follow': False, 'remote_src': False, 'unsafe_writes': False}

BLOCK = 65536  # bytes; a partial file is continued at a multiple of it, or is complete
STALE = 1440  # minutes after which a partial file is nobody's any more
TRIAL_SECONDS = 20  # for `k3s --version`, and for restorecon
STALL_SECONDS = 120  # without a byte that the connection takes
PATIENCE = 20  # seconds; what a mirror sends less than LEAST bytes in is given up
LEAST = PATIENCE * 16384
CAME = {'': 'there', 'stream': 'pushed', 'put_file': 'pushed', 'fetch': 'fetched', 'relay': 'relayed'}  # by way
PROGRESS_AFTER = PROGRESS_EVERY = 5  # seconds
LONGEST_ANSWERS = 1 << 20  # bytes that look answers with
LONGEST_ANSWER = 300  # characters of a line of a node
LONGEST_ERROR = 2000  # characters of what ssh and its server say of a connection that failed
NOBODY = 9999999999  # the number of no process
LONGEST_NAME = 100  # bytes of a file's name in that of its partial file
# place, pid, bytes, their digest, that of the whole file
PART = re.compile(r'(up|dir) ([0-9]{1,10}) ([0-9]{1,18}) ([0-9a-f]{64}) ([0-9a-f]{64})')


# --- the program that runs on a node ---------------------------------------------------------------------------------
#
# POSIX shell, with coreutils or BusyBox. Its verbs are look, receive and install; what each takes are shell variables
# that the controller sets in front of it, what it answers are lines "<word><key>=<value>". The word is made up for each
# call. Functions answer in variables where they can: each $( ) is a process, and a small node takes a while for one.

COMMON = r'''
LC_ALL=C; export LC_ALL; umask 022
# A program that dies leaves no core file where the node allows them.
ulimit -c 0 2>/dev/null
say() { printf '%s%s=%s\n' "$word" "$1" "$2"; }
# A program for SHA-256 counts where it finds of the word what the controller does.
proven() { case $(printf %s "$word" | "$@") in "$proof"*) exec "$@" ;; esac; }
sum_openssl() { proven openssl dgst -sha256 -r; }
sum_python3() {
    d=$(python3 -IS -c 'import hashlib, sys
h = hashlib.sha256()
for b in iter(lambda: sys.stdin.buffer.read(1 << 20), b""): h.update(b)
print(hashlib.sha256(sys.argv[1].encode()).hexdigest(), h.hexdigest())' "$word")
    case $d in "$proof "*) printf %s "${d#* }" ;; esac
}
sum_sha256sum() { proven sha256sum; }
sum() {
    d=
    ! command -v "$1" >/dev/null 2>&1 || d=$("sum_$1" 2>/dev/null)
    d=${d%% *}
    [ -n "$d" ]
}
# of a file, or of its first blocks; each program opens it anew
digest() {
    d=
    for by in openssl python3 sha256sum; do
        if [ -z "$2" ]; then sum "$by" <"$1"
        else d=$(dd if="$1" bs="$block" count="$2" 2>/dev/null | { sum "$by"; printf %s "$d"; })
        fi
        [ -z "$d" ] || return 0
    done
    return 1
}
joined() { set -f; set -- $1; set +f; line=$*; }
machine() { joined "$(uname -m)"; }
size_of() { exec stat -c %s "$1"; }
describe() {
    if [ -L "$dest" ]; then say kind link
    elif [ -f "$dest" ]; then
        say kind file
        stat -c "${word}mode=%a
${word}uid=%u
${word}gid=%g
${word}owner=%U
${word}group=%G
${word}size=%s" "$dest"
    elif [ -d "$dest" ]; then say kind directory
    elif [ -e "$dest" ]; then say kind other
    else say kind absent
    fi
    if [ -d "$dest" ]; then say kind directory; fi
}
alive() { [ -n "$1" ] && { kill -0 "$1" 2>/dev/null || [ -d "/proc/$1" ]; }; }
pid_of() { pid=${1%.part}; pid=${pid##*.}; }
at() { dest=$1; dir=${dest%/*}; dir=${dir:-/}; places="${outside:+up }dir"; }
place() { here=$dir; if [ "$1" = up ]; then here=${dir%/*}; here=${here:-/}; fi; }
stale() {
    for s in $places; do
        place "$s"
        for f in "$here"/.k3s-artifact.*; do
            [ -f "$f" ] && [ ! -L "$f" ] || continue
            if [ -z "$(find "$f" -prune -mmin +"$age")" ]; then
                # Of this file is what has behind its name a digest and a process number, or as of release 1.0.0 a
                # digest alone, and no more of a name.
                case ${f#"$here/.k3s-artifact.$base."} in
                    "$sha256."*.part | *.*.*.*) continue ;;
                    *.part) pid_of "$f"; ! alive "$pid" || continue ;;
                    *) continue ;;
                esac
            fi
            "$@" "$f"
        done
    done
}
# With -- only: without it, kill of procps takes a process group that begins with 1 for everybody. Some know one form,
# some the other.
end_group() { kill -s KILL -- "-$1" || kill -9 -- "-$1"; }
guarded() {
    out=$( { s=; if command -v setsid >/dev/null 2>&1; then s=setsid; fi
        sleep "$limit" >/dev/null & c=$!
        $s sh -c 'mark=$1; clock=$2; shift 2
            { { n=${files:-10}
                (ulimit -n "$n" 2>/dev/null || set -- prlimit --nofile="$n" "$@"; exec "$@") </dev/null 2>&1 3>&-
            echo "
$mark$?" >&3; } | head -c "${most:-4096}" 3>&-; } 3>&1
            kill -s KILL "$clock"' sh "$word-" "$c" "$@" & p=$!
        wait $c; end_group "$p" || kill -s KILL "$p"; } 2>/dev/null )
    code=
    case $out in *"$word-"[0-9]*)
        code=${out##*"$word-"}; code=${code%%[!0-9]*}; out=${out%"$word-"*}${out##*"$word-$code"} ;;
    esac
    joined "$out"; out=$line
}
'''

# look: what the node is and what it has at the destination. Changes nothing.
#   takes   dest; size and sha256 of the file, empty where it is not chosen yet; base, that of partial files; outside:
#           a partial file lies above the folder, if that can be; version: ask what is there for its version if it is
#           another file
#   answers machine, user, kind, what describe says, head, sha256, version, folder, beside (files of an images
#           directory), writable, fixed, blocked, free, part; nodigest where no program gives a digest that is needed;
#           kept: a folder is where the replaced binary would be kept
LOOK = COMMON + r'''
reclaim() { say reclaim "$(size_of "$1")"; }
undigested() { digest /dev/null || say nodigest yes; d=; }
look() {
at "$dest"
machine; say machine "$line"
say user "$(id -u) $(id -un 2>/dev/null)"
describe
if [ -f "$dest" ]; then
    joined "$(od -An -v -tx1 -N64 "$dest")"; say head "$line"
    d=
    if [ -z "$size" ] || [ "$(stat -Lc %s "$dest")" = "$size" ]; then digest "$dest" || undigested; say sha256 "$d"; fi
    if [ -n "$version" ] && [ -x "$dest" ] && { [ -z "$d" ] || [ "$d" != "$sha256" ]; }; then
        guarded "$dest" --version; say version "$out"
    fi
    [ -w "$dest" ] || say fixed yes
fi
near=$dir
while [ ! -d "$near" ]; do
    if [ -L "$near" ] || [ -e "$near" ]; then say blocked "$near"; fi
    near=${near%/*}; near=${near:-/}
done
[ ! -d "$dir" ] || say folder yes
[ ! -d "$dest.previous" ] || say kept folder
if [ -n "$outside" ]; then for f in "$dir"/*; do [ ! -f "$f" ] || say beside "${f##*/}"; done; fi
[ ! -w "$near" ] || say writable yes
joined "$(df -Pk "$near")"; say free "${line#*Mounted on }"
stale reclaim
for s in $places; do
    place "$s"
    for f in "$here/.k3s-artifact.$base.$sha256"*.part; do
        [ -f "$f" ] && [ ! -L "$f" ] && [ -z "$(find "$f" -prune -mmin +"$age")" ] || continue
        n=$(size_of "$f"); pid_of "$f"
        # What another run is writing, or is about to put in place, is left to it.
        if alive "$pid"; then [ "$n" != "$size" ] && sleep 1 && [ "$(size_of "$f")" = "$n" ] || continue; fi
        if [ "$n" = "$size" ]; then digest "$f" || undigested
        else n=$(( n / block )); digest "$f" "$n" || undigested; n=$(( n * block ))
        fi
        h=${f%.*.part}; say part "$s $pid $n $d ${h##*.}"
    done
done
say end yes
}
'''

FAIL = r'''
at "$dest"
part=
fail() {
    if [ -n "$part" ]; then
        [ -f "$part" ] || set -- gone
        case $1 in digest | run) rm -f "$part" ;; *) chmod 0600 "$part" 2>/dev/null ;; esac
    fi
    say failed "$1"; say reason "$(printf '%s' "$2" | tr '\n' ' ')"; finish 1
}
watch=
finish() { [ -z "$watch" ] || kill -s KILL "$watch"; exit "$1"; }
part_of() { place "$1"; path=$here/.k3s-artifact.$base.$sha256.$2.part; }
drop() { for f; do if [ -e "$f" ] || [ -L "$f" ]; then rm -f "$f"; fi; done; }
'''

# receive: a partial file of this run's own, with what an earlier run left in it, continued from standard input or
# from a file.
#   takes   dest, base, outside, size, sha256; start: the bytes that are there already, old: where ("place pid");
#           from: a file of the node to read in place of standard input; url: what is fetched in place of both
#   answers part: "place pid" of the file; or failed (gone, write, short, folder, fetch) and reason
RECEIVE = FAIL + r'''
trap '' HUP
if [ ! -d "$dir" ]; then e=$(mkdir -p "$dir" 2>&1) || fail folder "$e"; fi
stale rm -f
umask 077
for s in $places; do
    part_of "$s" "$$"; part=$path
    e=$( { drop "$part" && set -C && : >"$part"; } 2>&1) || { part=; continue; }
    [ "$s" = dir ] && break
    t=$dir/.k3s-artifact.$base.$sha256.$$.part; i=$(stat -c %d:%i "$part")
    mv -f "$part" "$t" 2>/dev/null && [ "$(stat -c %d:%i "$t")" = "$i" ] && mv -f "$t" "$part" && break
    rm -f "$part" "$t"; part=; e='a rename does not lead there'
done
[ -n "$part" ] || fail write "$e"
if [ "$start" = 0 ]; then
    for f in "${part%.*.part}".*.part; do
        pid_of "$f"; [ "$f" = "$part" ] || alive "$pid" || rm -f "$f"
    done
else
    part_of $old; o=$path
    if [ ! -f "$o" ] || [ -L "$o" ]; then rm -f "$part"; fail gone; fi
    if alive "${old#* }" || [ "${o%/*}" != "${part%/*}" ]; then
        e=$(dd if="$o" of="$part" bs="$block" conv=fsync 2>&1) || fail write "$e"
    else mv -f "$o" "$part" || fail gone
    fi
    rm -f "$o"
    chmod 0600 "$part"
    if [ "$start" != "$size" ]; then dd if=/dev/null of="$part" bs="$block" seek="$(( start / block ))" 2>/dev/null; fi
fi
say part "$s $$"
if [ "$start" != "$size" ]; then
    if [ -n "$url" ]; then fetch
    elif [ -n "$from" ]; then e=$(dd if="$from" of="$part" bs="$block" conv=fsync 2>&1) || fail write "$e"
    else
        n=$(( (size - start) / block )); tail=$(( (size - start) % block )); at=$(( start / block ))
        e=; c=notrunc,fsync
        take() { exec dd of="$part" obs="$block" iflag=fullblock conv="$c" "$@" 2>&1; }
        [ "$n" = 0 ] || e=$(take ibs="$block" seek="$at" count="$n") || fail write "$e"
        # A dd whose input has ended says nothing, and the next one would make the file anew where it was taken away.
        [ "$(size_of "$part" 2>/dev/null)" = "$(( (at + n) * block ))" ] || fail short
        [ "$n" = 0 ] || [ "$tail" = 0 ] || case $(dd --help 2>&1 </dev/null) in *nocreat*) c=$c,nocreat ;; esac
        [ "$tail" = 0 ] || e=$(take ibs="$tail" seek="$(( at + n ))" count=1) || fail write "$e"
    fi
fi
n=$(size_of "$part")
[ "$n" -le "$size" ] || fail digest
[ "$n" = "$size" ] || fail short
'''

# install: what waits in the partial file is checked, tried, and renamed. With part empty it sets the attributes of
# what is there.
#   takes   dest, base, outside, size, sha256; part ("place pid"); machine: what look said; mode, owner, group; keep:
#           "uid:gid" of what is there; probe: try it; limit: seconds for that; only: "check" ends before the rename,
#           "place" begins there; token: what check answered; previous: under which name what is replaced stays
#   answers version, token, what describe says; or failed (machine, gone, short, digest, nodigest, attributes, run,
#           busy, directory, previous, rename) and reason
INSTALL = r'''
trap '' HUP PIPE
end_trial() {
    for e in /proc/[0-9]*/exe; do
        if [ "$e" -ef "$part" ]; then e=${e%/exe}; kill -s KILL "${e#/proc/}"; fi
    done 2>/dev/null
}
seal() { stat -c '%i %Y %s' "$part"; }
machine; [ "$line" = "$machine" ] || fail machine "$line"
target=$dest
if [ -n "$part" ]; then
    target=$part
    [ -f "$part" ] && [ ! -L "$part" ] || fail gone
fi
if [ -n "$part" ] && [ "$only" = place ]; then [ "$(seal)" = "$token" ] || fail gone; fi
if [ -n "$part" ] && [ "$only" != place ]; then
    for by in openssl python3 sha256sum none; do
        if [ "$by" = none ]; then ! digest /dev/null || fail digest; fail nodigest; fi
        sum "$by" <"$part" && [ "$d" = "$sha256" ] && break
    done
    if [ -n "$probe" ]; then
        chmod 0700 "$part"
        tries=0
        while :; do
            guarded "$part" --version
            case $code:$tries:$out in [1-9]*:[0-4]:*ext\ file\ busy*) tries=$((tries + 1)); sleep 1 ;; *) break ;; esac
        done
        case $code:$out in
            0:*) ;;
            [0-9]*:*ext\ file\ busy*) fail busy ;;
            [0-9]*) fail run "exit status $code: ${out:-it printed nothing}" ;;
            *) end_trial; fail run "it did not end within $limit seconds: $out" ;;
        esac
        [ "$only" != check ] || chmod 0600 "$part"
        say version "$out"
    fi
fi
attributes() {
    [ -z "$part" ] || [ -z "$keep" ] || chown "$keep" "$target" 2>/dev/null
    [ -z "$owner" ] || e=$(chown "$owner" "$target" 2>&1) || fail attributes "$e"
    [ -z "$group" ] || e=$(chgrp "$group" "$target" 2>&1) || fail attributes "$e"
}
is_kept() {
    [ "$dest" -ef "$previous" ] && [ ! -L "$dest" ] && return
    [ "$(stat -Lc %s "$dest" 2>/dev/null)" = "$size" ] && digest "$dest" && [ "$d" = "$sha256" ]
}
keeps() { [ -n "$part" ] && [ -n "$previous" ] && { [ -f "$dest" ] || [ -L "$dest" ]; } && ! is_kept; }
# By a rename, so that an older one stays until then. What only checks takes the link away again.
keep() {
    [ ! -d "$previous" ] || fail previous 'a directory is there'
    link=$dir/.k3s-artifact.$base.previous.$$.part
    rm -f "$link"
    set -- mv -f "$link" "$previous"
    [ "$only" != check ] || set -- rm -f "$link"
    e=$( { ln "$dest" "$link" && "$@"; } 2>&1) || { rm -f "$link"; fail previous "$e"; }
}
attributes
if [ -n "$part" ] && [ "$only" = check ]; then
    if keeps; then keep; fi
    say token "$(seal)"; say end yes; finish 0
fi
if [ -n "$part" ] && [ -f "$dest" ]; then
    case $(ls -ld "$dest") in ??????????+*)
        getfacl -cp "$dest" 2>/dev/null | grep -E '^(user|group):[^:]+:' | setfacl -M - "$part" 2>/dev/null ;;
    esac
fi
[ -z "$part" ] || [ ! -d "$dest" ] || fail directory
e=$(chmod "$mode" "$target" 2>&1) || fail attributes "$e"
if keeps; then keep; fi
if [ -n "$part" ]; then
    e=$(mv -f "$part" "$dest" 2>&1) || fail rename "$e"
    part=
    sync "$dir" 2>/dev/null || sync
    for s in $places; do place "$s"; drop "$here/.k3s-artifact.$base.$sha256."*.part; done
    sha256=-; stale rm -f
    if command -v restorecon >/dev/null 2>&1; then guarded restorecon "$dest"; fi
fi
describe
say end yes
finish 0
'''
WAITING = FAIL + r'''
if [ -n "$waiting" ]; then
    part_of $waiting; part=$path
    [ ! -f "$part" ] || [ "$(size_of "$part")" = "$size" ] || fail short
fi
''' + INSTALL
INSTALL_ONLY = COMMON + WAITING
INSTALL_PARTS = f'{COMMON}put() (\n{WAITING}\n)\n'
SAME_FOLDER = r'''
real() { cd -P "$1" && pwd -P; }
a=$(real "$a") && [ "$a" = "$(real "$b")" ] && same=yes
echo "$word$same"
'''
# In a stream, standard input ends when the run does. What has arrived then gets another name, for the next run: nothing
# is put in place any more. No process is ended by its number, which may be another's by then.
TRANSFER = RECEIVE + r'''
if [ -z "$from" ]; then
    exec 3<&0; { cat <&3 >/dev/null; mv -f "$part" "${part%.*.part}.$nobody.part"; } >/dev/null 2>&1 & watch=$!
    exec 3<&-
fi
''' + INSTALL
RECEIVE_AND_INSTALL = COMMON + TRANSFER
# In one session: look, and then receive and install what the controller answers with (variables, in a line), or end.
CONVERSE = LOOK + r'''
IFS= read -r ready
look
IFS= read -r answer
[ -n "$answer" ] || exit 0
eval "$answer"
''' + TRANSFER

# fetch: what is missing in the partial file comes from a web server, by curl or wget. No word of the server is trusted:
# it gets no more room than the file has, no more time than PATIENCE, no other address is asked for it, and whether it
# was right is for the digest to say. Secrets are in a file, which is read and taken away; never in an argument.
#   takes   what receive takes; url, or the path of what this node has as the relay of its site; secrets: that file, of
#           shell assignments; direct: past all proxies; ca; rate: bytes in a second; patience, least; from: standard
#           input says nothing of the end of the run
FETCH = r'''
by_curl() {
    [ "$start" = 0 ] || set -- --continue-at "$start"
    [ -z "$rate" ] || set -- "$@" --limit-rate "$rate"
    [ -z "$ca" ] || set -- "$@" --cacert "$ca"
    exec curl -q --silent --show-error --fail --proto =http,https --connect-timeout 10 \
        --write-out ' (HTTP status %{http_code})' --output "$part" "$@" --config - "$url" <<END
$curl_lines
END
}
by_wget() {
    [ "$start" = 0 ] || set -- --continue
    [ -z "$rate" ] || set -- "$@" --limit-rate="$rate"
    [ -z "$ca" ] || set -- "$@" --ca-certificate="$ca"
    if [ -n "$wget_lines" ]; then printf '%s\n' "$wget_lines" >"$secrets.rc"; set -- "$@" --config="$secrets.rc"; fi
    HOME=/nonexistent; export HOME
    exec wget --no-verbose --tries=1 --max-redirect=0 --timeout="$patience" --output-document="$part" "$@" "$url"
}
by_busybox() {
    [ "$start" = 0 ] || set -- -c
    exec wget -q "$@" -O "$part" "$url"  # never with -T: that of Debian 12 crashes then
}
fetch() {
    case $url in /*)
        ln -f "$url" "$part" 2>/dev/null || e=$(dd if="$url" of="$part" bs="$block" conv=fsync 2>&1) || fail fetch "$e"
        return ;;
    esac
    curl_lines=; wget_lines=; client=
    if [ -n "$secrets" ]; then . "$secrets"; rm -f "$secrets"; fi
    [ -z "$direct" ] || unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY
    if command -v curl >/dev/null 2>&1; then client=curl
    elif command -v wget >/dev/null 2>&1; then
        case $(wget --help 2>&1) in *BusyBox*) client=busybox ;; *) client=wget ;; esac
    else fail fetch 'the node has neither curl nor wget'
    fi
    case $client:$wget_lines in
        busybox:?*) fail fetch 'wget of BusyBox would show the header or password to every user of the node' ;;
    esac
    exec 3<&0
    e=$( exec 2>&1
        ( ulimit -f "$(( size / 512 + 2048 ))" 2>/dev/null; "by_$client" ) </dev/null 3<&- & f=$!
        { t=0; seen=$start
          while sleep 1; do
              n=$(size_of "$part"); t=$(( t + 1 ))
              [ "$n" -lt "$size" ] || break
              [ "$t" -ge "$patience" ] || continue
              [ $(( n - seen )) -ge "$least" ] || break
              t=0; seen=$n
          done
          kill "$f"; } >/dev/null 2>&1 3<&- & w=$!
        c=; if [ -z "$from" ]; then { cat <&3; kill "$f"; } >/dev/null 2>&1 & c=$!; fi
        wait "$f"; code=$?; kill "$w" $c 2>/dev/null
        [ "$code" != 143 ] || printf 'given up: fewer than %s bytes in %s seconds' "$least" "$patience" )
    exec 3<&-
    [ -z "$secrets" ] || rm -f "$secrets.rc"
    dd if=/dev/null of="$part" conv=notrunc,fsync 2>/dev/null
    [ "$(size_of "$part")" -ge "$size" ] || fail fetch "$client: $(printf %s "$e" | head -c 1000)"
}
'''


def shell_program(script: str, **values: object) -> str:
    """Return *script* with *values* as its shell variables; with a word, also what a program for SHA-256 says of it."""
    if 'word' in values:
        values['proof'] = hashlib.sha256(str(values['word']).encode()).hexdigest()
    return ''.join(f'{name}={shlex.quote(str(value))}\n' for name, value in values.items()) + script.strip('\n') + '\n'


def shell_command(program: str) -> str:
    """Return the command that runs a shell program: one line of characters that mean the same to every login shell."""
    coded = re.sub(r"[\n\\'!\t]", lambda match: f'\\0{ord(match.group()):03o}', program)
    return f'eval "$(printf %b \'{coded}\')"'


def answers(stdout: str, word: str) -> dict[str, list[str]]:
    """Return what a verb answered: the values of each key, in order. Whatever else a login prints is ignored."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(re.escape(word) + r'(\w{1,20})=([^\r\n]*)', stdout):
        found.setdefault(key, []).append(plain(value))
    return found


def plain(text: str, limit: int = LONGEST_ANSWER) -> str:
    """Return what a node says as one short line of what prints as it is, and without the beginning of a template.

    What would turn the direction of a line is no control character, and shown as text all the same.
    """
    def shown(match):
        return match.group() if match.group().isprintable() else match.group().encode('unicode_escape').decode()
    text = re.sub('[^ -~]', shown, text[:limit])
    text = re.sub(r'{(?=[{%#])', '{ ', text)  # ansible-core up to 2.18 templates the message of an error again
    return text if len(text) <= limit else text[:limit] + '...'


def number(text: str | None) -> int | None:
    """Return a count of bytes that a node says, or None for what is none."""
    return int(text) if text and re.fullmatch(r'[0-9]{1,18}', text) else None


# --- what the program found, and what is to be done ------------------------------------------------------------------


class Job(NamedTuple):
    """One verified file of the controller on its way to a path of a node."""

    artifact: Any  # the lookup's Artifact
    kind: str  # binary, archive, script
    dest: str
    mode: str | None  # octal digits, as for chmod; None: symbolic, which only ansible-core's copy does
    owner: str | None
    group: str | None
    trial: bool  # run it as `k3s --version` before it is put in place
    downgrade: bool = False  # an older K3s may replace a newer one
    may_come: bool = False  # in check mode, a task before it may make the folder
    keeps: bool = False  # what it replaces stays beside it

    @property
    def setting(self):
        """The variable that says where it goes."""
        return 'k3s_artifact_images_dest' if self.kind == 'archive' else 'k3s_artifact_dest'

    @property
    def previous(self):
        return f'{self.dest}{PREVIOUS}' if self.keeps else ''

    @property
    def target(self):
        return Target(self.dest, self.kind, self.artifact.size, self.artifact.sha256, self.trial)


class Target(NamedTuple):
    """A path of a node that is looked at, with what is known of the file that is to be there."""

    dest: str
    kind: str
    size: int | str = ''  # bytes; empty: not chosen yet
    sha256: str = ''
    trial: bool = False

    def variables(self):
        name = os.path.basename(self.dest).encode('utf-8', 'surrogateescape')
        base = name[:LONGEST_NAME].decode('utf-8', 'ignore')
        if len(name) > LONGEST_NAME:
            base += f'-{hashlib.sha256(name).hexdigest()[:8]}'
        return {'dest': self.dest, 'base': base, 'outside': 'yes' if self.kind == 'archive' else '', 'size': self.size,
                'sha256': self.sha256, 'version': 'yes' if self.trial else ''}


class Partial(NamedTuple):
    """What an earlier run left of a file on the node."""

    place: str  # 'dir', or 'up' for the folder above
    pid: str  # of the shell that wrote it
    length: int  # bytes that count
    digest: str  # SHA-256 of them
    sha256: str  # of the whole file, from the partial file's name


class Node(NamedTuple):
    """What look found on a node, for one path."""

    machine: str
    arch: str | None  # K3s's name for the machine
    user: str
    is_root: bool
    kind: str  # of what is at the destination: absent, file, link, directory, other
    status: dict  # mode, uid, gid, owner, group, size of a file at the destination
    sha256: str | None
    holds: str | None  # the arch of the program at the destination
    version: str  # of the K3s at the destination, where it was asked
    folder: bool  # whether the destination's folder exists
    writable: bool
    fixed: bool  # whether the destination itself cannot be written
    blocked: str  # what is in the way of the folder: a dangling link, a file
    free: int | None  # bytes
    partials: tuple
    mount: str = ''  # where the file system of the folder is mounted
    beside: tuple = ()  # names of the files in an images directory
    uid: str = ''  # of the user
    digests: bool = True  # False: no program for SHA-256 works there
    keeps: bool = True  # False: a folder is where the replaced binary would be kept

    def partial(self, sha256):
        """Return the longest partial file of the file with that digest, None without one."""
        of_file = [each for each in self.partials if each.sha256 == sha256]
        return max(of_file, key=lambda each: each.length, default=None)


def parse_status(found: dict[str, list[str]]) -> dict[str, object]:
    """Return mode, uid, gid, owner, group and size from the answers of describe, nothing of what is not whole."""
    mode, owner, group = (found.get(key, [''])[-1] for key in ('mode', 'owner', 'group'))
    counts = {key: number(found.get(key, [''])[-1]) for key in ('uid', 'gid', 'size')}
    if None in counts.values() or not re.fullmatch('[0-7]{1,4}', mode):
        return {}
    return {'mode': mode.rjust(4, '0'), 'owner': owner, 'group': group, **counts}


def parse_node(found: dict[str, list[str]], arch_of: Callable, arch_of_program: Callable) -> Node:
    """Return the :class:`Node` for the answers of look; the functions tell the arch of a machine and of a program."""
    def last(key):
        return found.get(key, [''])[-1]
    head = bytes.fromhex(last('head')) if re.fullmatch(r'([0-9a-f]{2} ?)+', last('head')) else b''
    free = re.search(r'\s([0-9]{1,18})\s+[0-9]+%\s*(.*)', last('free'))
    uid, _blank, name = last('user').partition(' ')
    partials = [PART.fullmatch(part) for part in found.get('part', [])]
    return Node(
        machine=last('machine'), arch=arch_of(last('machine')), user=name or uid, is_root=uid == '0', kind=last('kind'),
        status=parse_status(found) if last('kind') == 'file' else {}, holds=arch_of_program(head),
        sha256=last('sha256') if re.fullmatch('[0-9a-f]{64}', last('sha256')) else None,
        version=''.join(re.findall(r'\bv[0-9][\w.+-]*', last('version'))[:1]),
        folder='folder' in found, writable='writable' in found,
        fixed='fixed' in found, blocked=last('blocked'),
        free=int(free.group(1)) * 1024 + sum(number(size) or 0 for size in found.get('reclaim', [])) if free else None,
        partials=tuple(Partial(part[1], part[2], int(part[3]), part[4], part[5]) for part in partials if part),
        mount=free.group(2) if free else '', beside=tuple(found.get('beside', [])), uid=uid,
        digests='nodigest' not in found, keeps='kept' not in found)


NO_DIGEST = ('no program of the node for SHA-256 works (openssl, python3, sha256sum), so what arrives cannot be '
             'checked. Mend one of them')


class Plan(NamedTuple):
    """What is to be done for a job on a node."""

    installed: str  # what is there: absent, same, different, wrong architecture, link, directory, other
    action: str  # nothing, attributes, install, replace
    start: int  # bytes that need not be sent
    to_send: int  # bytes that have to be sent
    refusal: str | None  # why it cannot be done, as a sentence without the host's name


def plan(job: Job, node: Node, resume: int = 0) -> Plan:
    """Return the :class:`Plan` for *job* on *node*, where *resume* bytes of the file wait already.

    Check mode, preflight and the run itself ask this function and no other.
    """
    installed = what_is_installed(job, node)
    action = 'nothing'
    if installed != 'same':
        action = 'install' if installed == 'absent' else 'replace'
    elif not has_attributes(job, node.status):
        action = 'attributes'
    size = job.artifact.size
    start = resume if action in ('install', 'replace') and resume <= size else 0
    to_send = size - start if action in ('install', 'replace') else 0
    return Plan(installed, action, start, to_send, refusal(job, node, action, to_send))


def what_is_installed(job: Job, node: Node) -> str:
    """Say what is at the destination, without running it."""
    if node.kind != 'file':
        return node.kind
    if node.sha256 == job.artifact.sha256:
        return 'same'
    return 'wrong architecture' if job.kind == 'binary' and node.holds != job.artifact.arch else 'different'


def given(wish: object) -> object:
    """Return an owner or a group as a task gives it, also the number 0; '' where it gives none."""
    return '' if wish is None else wish


def has_attributes(job: Job, status: dict) -> bool:
    return all(str(wanted) in map(str, there) for wanted, there in (
        (job.mode, [status.get('mode')]),
        (given(job.owner), ['', status.get('owner'), status.get('uid')]),
        (given(job.group), ['', status.get('group'), status.get('gid')])))


def refusal(job: Job, node: Node, action: str, to_send: int) -> str | None:
    """Say why *job* cannot be done on *node* and what to do about it, or return None."""
    artifact, folder = job.artifact, os.path.dirname(job.dest)
    if node.arch != artifact.arch:
        return (f'it says that it is {node.machine!r}, its facts say {artifact.machine} (arch {artifact.arch}). Gather '
                f'its facts again, or set k3s_artifact_machine')
    if node.kind in ('directory', 'other'):
        return (f'{job.dest} is a {node.kind.replace("other", "special file")}, not a file. Remove it, or set '
                f'{job.setting} to another path')
    if node.blocked:
        return f'{node.blocked} is in the way of the folder {folder}: it is a dangling link or a file. Make it a folder'
    if not node.folder and job.kind != 'archive' and not job.may_come:
        return f'the folder {folder} does not exist. Create it first'
    if action == 'nothing':
        return None
    if is_older(artifact.version, node.version) and job.kind == 'binary' and not job.downgrade:
        return (f'it has K3s {node.version}, and {artifact.source} is {artifact.version}: K3s does not support going '
                f'back. Set k3s_artifact_downgrade: true to do it all the same')
    if not node.is_root and str(given(job.owner)) not in ('', node.user, node.uid):
        return f'the user {node.user} cannot give {job.dest} to {job.owner}: only root can. Use become: true'
    if action == 'attributes':
        return refusal_of_attributes(job, node)
    if not node.writable:
        return (f'the user {node.user} cannot write to {folder} on the node, or its file system is read-only. Use '
                f'become: true, make it writable, or set {job.setting} to a path that is')
    if node.fixed and node.is_root and node.kind == 'file':
        return f'{job.dest} cannot be replaced: it is immutable. Take that attribute away (chattr -i)'
    if not node.digests:
        return NO_DIGEST
    if job.keeps and not node.keeps and node.kind in ('file', 'link'):
        return f'{job.dest} cannot be kept as {job.previous}: a directory is there. Take it away'
    if node.free is not None and node.free < to_send:
        return f'{artifact.source} needs {to_send} bytes in {folder} on the node, {node.free} are free. Free some space'
    return None


def refusal_of_attributes(job: Job, node: Node) -> str | None:
    """Say why owner, group and mode of what is there cannot be set, or return None."""
    if job.mode is None:  # ansible-core's copy decides
        return None
    if node.is_root and node.fixed:
        return (f'owner, group or mode of {job.dest} cannot be set: it is immutable, or its file system is read-only. '
                f'Take that attribute away (chattr -i), or make it writable')
    if not node.is_root and node.status and node.user != node.status['owner'] and node.uid != str(node.status['uid']):
        return (f'the user {node.user} cannot set owner, group or mode of {job.dest}, which belongs to '
                f'{node.status["owner"]}. Use become: true')
    return None


def is_older(version: str | None, other: str | None) -> bool:
    """Tell whether a release of K3s is older than another one. What is no release is not older than anything."""
    release = r'v([0-9]+)\.([0-9]+)\.([0-9]+)(?:-[a-z]*([0-9]*))?\+k3s([0-9]+)'
    keys = [match.groups() for match in (re.fullmatch(release, text or '') for text in (version, other)) if match]
    if len(keys) < 2:
        return False
    # A release follows its candidates.
    first, second = ([int(part or 10**6) for part in key] for key in keys)
    return first < second


def octal_mode(mode: object) -> str | None:
    """Return a task's mode as four octal digits, or None where it is symbolic or "preserve"."""
    if isinstance(mode, str) and re.fullmatch(r'\s*[0-7]{3,5}\s*', mode):
        mode = int(mode, 8)
    return f'{mode:04o}' if isinstance(mode, int) and not isinstance(mode, bool) and 0 <= mode <= 0o7777 else None


def resume_at(file, path, partial):
    """Return how many bytes of a :class:`Partial` are the beginning of the open *file*: all of them, or none."""
    if partial is None:
        return 0
    known, left = hashlib.sha256(), partial.length
    file.seek(0)
    while left > 0:
        data = read(file, path, min(left, 1 << 20))
        if not data:
            return 0
        known.update(data)
        left -= len(data)
    return partial.length if known.hexdigest() == partial.digest else 0


# --- a mirror --------------------------------------------------------------------------------------------------------


class Mirror(NamedTuple):
    """A web server from which a node fetches files itself."""

    url: str = ''  # of the folder *root*, without a slash at its end; empty: there is none
    root: str = ''  # the artifact directory on the controller
    secrets: str = ''  # shell assignments with what nobody may read: header lines for curl and wget, a proxy
    ca: str = ''  # path of a file on the node
    direct: bool = False  # past all proxies
    only: bool = False  # fail rather than push
    rate: int | None = None  # bytes in a second that each transfer over the link may have, also a pushed one

    def url_of(self, path):
        """Return the address of the file *path* of the controller, '' where the mirror has none."""
        if not self.url or not self.root or not path.startswith(self.root.rstrip('/') + '/'):
            return ''
        return f'{self.url}/{urllib.parse.quote(os.path.relpath(path, self.root))}'


NO_MIRROR = Mirror()


def mirror_of(host, setting, root):
    """Return the :class:`Mirror` that the variables of *host* say; no error repeats what may be a secret.

    setting: gives the value of a variable. root: gives the artifact directory, None without one.
    """
    def refuse(name, advice):
        raise StagingError(f'{name} of {host} {advice}.')
    rate = setting('k3s_artifact_rate')
    match = re.fullmatch(r'([0-9]{1,12})([kM]?)', str(rate or ''))
    limit = int(match[1]) * {'': 1, 'k': 1000, 'M': 1000000}[match[2]] if match else 0
    if rate and limit < 4 * LEAST // PATIENCE:
        refuse('k3s_artifact_rate', f'is {rate!r}. Write bytes in a second, such as 500k or 2M, and at least 66k')
    none = Mirror(rate=limit or None)
    url = setting('k3s_artifact_url')
    if not url:
        return none
    if not isinstance(url, str) or not re.fullmatch(r'https?://[^\s/?#@\\"\x00-\x20\x7f]+(/[^\s?#\\"\x00-\x20\x7f]*)?',
                                                    url):
        refuse('k3s_artifact_url', 'is no address of a folder, http:// or https:// with a host and a path, and without '
                                   'a user, a query or blanks. A user goes into k3s_artifact_url_username')
    headers = setting('k3s_artifact_url_headers') or {}
    if not isinstance(headers, Mapping):
        refuse('k3s_artifact_url_headers', 'is no dictionary of names and values')
    headers = {str(name): str(value) for name, value in headers.items()}
    user, password = setting('k3s_artifact_url_username'), setting('k3s_artifact_url_password')
    if user or password:
        if not isinstance(user, str) or not user or ':' in user or not isinstance(password, str):
            refuse('k3s_artifact_url_username', 'and k3s_artifact_url_password are both needed as texts, and the first '
                                                'has no colon in it')
        headers['Authorization'] = 'Basic ' + base64.b64encode(f'{user}:{password}'.encode()).decode()
    if not all(re.fullmatch(r'[A-Za-z0-9-]+', name) and re.fullmatch(r'[ -~]*', headers[name]) for name in headers):
        refuse('k3s_artifact_url_headers', 'has a name that no header has, or a value with characters that none has')
    proxy = setting('k3s_artifact_url_proxy')
    if proxy and (not isinstance(proxy, str) or not re.fullmatch(r'https?://([^\s/@]+@)?[\w.:\[\]-]+/?', proxy)):
        refuse('k3s_artifact_url_proxy', 'is no address such as http://proxy:3128. Write one, or false for no proxy')
    lines = [f'{name}: {value}' for name, value in headers.items()]
    quoted = (re.sub(r'([\\"])', r'\\\1', line) for line in lines)
    secrets_ = {'curl_lines': '\n'.join(f'header = "{line}"' for line in quoted),
                'wget_lines': '\n'.join(f'header = {line}' for line in lines),
                **({'http_proxy': proxy, 'https_proxy': proxy} if proxy else {})}
    return none._replace(
        url=url.rstrip('/'), root=root() or '', ca=checked_path(host, 'k3s_artifact_url_ca_path',
                                                                setting('k3s_artifact_url_ca_path') or ''),
        secrets=shell_program('export http_proxy https_proxy', **secrets_) if lines or proxy else '',
        direct=proxy is not None and not proxy,
        only=checked_switch(host, 'k3s_artifact_url_only', setting('k3s_artifact_url_only') or False))


# --- the way to the node ---------------------------------------------------------------------------------------------


class StagingError(AnsibleError):
    """What goes wrong on the way to the node, as a sentence for the person who runs the playbook."""


class NotFetched(Exception):
    """What came from a mirror is not the file, or not all of it; the text says why."""


class PartialLost(Exception):
    """The partial file is not as this run left it: another run against the same node has taken it over."""


def is_core_ssh(connection):
    """Tell whether the way to the node is ansible-core's own ssh plugin, not one derived from it that leads elsewhere.

    Without its ``_send_initial_data`` there is nothing to stream through, and files go the way of ``put_file``.
    """
    path = getattr(sys.modules.get(type(connection).__module__), '__file__', None) or ''
    own = os.path.join(next(iter(ansible.plugins.connection.__path__)), 'ssh.py')
    return os.path.realpath(path) == os.path.realpath(own) and hasattr(connection, '_send_initial_data')


def ssh_words(arguments):
    """Yield the words of ssh arguments: (name, option) for ``-o``, ("", word) for a value, else (None, word)."""
    words = iter(shlex.split(arguments or ''))
    for word in words:
        option = next(words, '') if word == '-o' else word[2:] if word.startswith('-o') else None
        if option is None:
            yield None, word
            if re.fullmatch('-[SFiJplLRDWEbceImQwB]', word):
                yield '', next(words, '')
        else:
            yield re.split(r'[\s=]', option.strip(), maxsplit=1)[0].lower(), option


SHARED = ('controlmaster', 'controlpath', 'controlpersist')
FORWARDS = ('localforward', 'remoteforward', 'dynamicforward', 'exitonforwardfailure')


def chooses_connection(arguments):
    """Tell whether ssh arguments choose the connection: by a control path, or by a forwarding."""
    for name, word in ssh_words(arguments):
        if name in ('controlpath', *FORWARDS) or (name is None and re.match('-[SLRDw]', word)):
            return True
        if name == 'controlmaster' and not re.fullmatch(r'.*[\s=]"?auto"?\s*', word, re.IGNORECASE):
            return True
    return False


def without_compression(arguments, own):
    """Return ssh arguments without those for compression and, for an *own* connection, those for a shared one."""
    kept = []
    for name, word in ssh_words(arguments):
        if name:
            dropped = name == 'compression' or (own and name in SHARED)
            kept += [] if dropped else ['-o', word]
        elif name is None and re.fullmatch(r'-[46AaCfGgKkMNnqsTtVvXxYy]+', word):
            word = word.replace('C', '').replace('M', '' if own else 'M')
            kept += [word] if word != '-' else []
        else:
            kept.append(word)
    return shlex.join(kept)


@contextlib.contextmanager
def streaming(connection, send):
    """Let the next command of an ssh *connection* be fed by *send*, over a connection of its own without compression.

    A K3s binary and its archives are compressed already, and compressing them again is most of the time that copy
    takes. Options of the plugin and the method that writes to ssh are changed on this object, and only for this call.
    Where the user chose a connection, it is used.
    """
    texts = ('ssh_args', 'ssh_common_args', 'ssh_extra_args')
    kept = {name: connection.get_option(name) for name in (*texts, 'reconnection_retries')}
    own = not connection.get_option('control_path') and not any(chooses_connection(kept[name]) for name in texts)
    changed = {name: without_compression(kept[name], own) for name in texts}
    changed['reconnection_retries'] = 0  # it would send the wrong part of the file
    if own:
        changed['ssh_args'] = ('-o Compression=no -o ControlMaster=no -o ControlPath=none -o ClearAllForwardings=yes '
                               + changed['ssh_args'])
    connection._send_initial_data = send
    try:
        for name, value in changed.items():
            connection.set_option(name, value)
        yield
    finally:
        del connection._send_initial_data
        for name, value in kept.items():
            connection.set_option(name, value)


class Stream:
    """The rest of an open file, for the standard input of ssh: what the plugin would do with a text, in blocks."""

    def __init__(self, file, path, start, size, progress):
        self._file, self._path, self._start, self._size, self._progress = file, path, start, size, progress
        self.sent = 0

    def __call__(self, fh, in_data, ssh_process):
        """Write to *fh*, the standard input of *ssh_process*. It stays open: when it ends, the node gives up."""
        try:
            self._write_all(fh)
        except BrokenPipeError:
            # ssh has ended and has said why; the plugin reads that. One that lives and takes nothing is a broken one.
            time.sleep(0.01)
            if ssh_process.poll() is None:
                raise AnsibleConnectionFailure('ssh takes no more data.') from None
        except BaseException:  # such as the end of the task's timeout: what ends the run ends the transfer
            ssh_process.kill()
            raise

    def _write_all(self, fh):
        descriptor, left = fh.fileno(), self._size - self._start
        os.set_blocking(descriptor, False)
        while left > 0:
            data = memoryview(read(self._file, self._path, min(left, 1 << 20)))
            if not data:
                fh.close()  # the file has become shorter
                return
            left -= len(data)
            while data:
                if not is_ready(descriptor, select.POLLOUT):
                    raise AnsibleConnectionFailure(f'the connection took no data for {STALL_SECONDS} seconds.')
                with contextlib.suppress(BlockingIOError):
                    written = os.write(descriptor, data[:BLOCK])
                    self.sent += written
                    data = data[written:]
                self._progress.at(self._start + self.sent)


def is_ready(stream, event):
    """Wait for an *event* of a stream, also its end; tell whether it came in time. Any number of files may be open."""
    waiting = select.poll()
    waiting.register(stream, event)
    return bool(waiting.poll(STALL_SECONDS * 1000))


def heard(stream, mark):
    """Return what *stream* says until a line with *mark*, as text, or None where it ends before."""
    text = b''
    while mark not in text:
        if len(text) > LONGEST_ANSWERS or not is_ready(stream, select.POLLIN):
            raise AnsibleConnectionFailure(f'the node did not answer within {STALL_SECONDS} seconds.')
        data = os.read(stream.fileno(), BLOCK)
        if not data:
            return None
        text += data
    return to_text(text)


def held_open(_fh, _in_data, _process):
    """Stands for the sender of a stream that has nothing to send: standard input ends when the run does."""


class Paced:
    """A progress that also waits, until the transfer is no faster than *rate* bytes in a second."""

    def __init__(self, progress, start, rate):
        self._progress, self._start, self._rate, self._began = progress, start, rate, time.monotonic()
        self.finish = progress.finish

    def at(self, done):
        time.sleep(max(0, self._began + (done - self._start) / self._rate - time.monotonic()))
        self._progress.at(done)


def read(file, path, length):
    try:
        return file.read(length)
    except OSError as error:
        raise StagingError(f'{path} cannot be read any more: {error.strerror}. Nothing was put in place.') from None


def is_to_send(planned):
    return planned is not None and planned.action in ('install', 'replace')


def variables_of(job, node, planned=None):
    """Return what receive and install take, as shell variables."""
    partial = node.partial(job.artifact.sha256) if planned and planned.start else None
    return {
        **job.target.variables(), 'only': '', 'token': '', 'waiting': '', 'from': '', 'url': '',
        'machine': node.machine, 'mode': job.mode, 'owner': given(job.owner),
        'group': given(job.group), 'probe': 'yes' if job.trial else '', 'previous': job.previous,
        # The owner that is there is kept where that is allowed, as core's copy does.
        'keep': '{uid}:{gid}'.format(**node.status) if node.status else '',
        'start': planned.start if planned else 0, 'old': f'{partial.place} {partial.pid}' if partial else ''}


class Delivery:
    """Brings verified files to one node, through the connection of the task of *action*: look, plan, send, install."""

    def __init__(self, action, host, arch_of, arch_of_program, mirror=NO_MIRROR):
        self._action, self._host, self._arch_of, self._arch_of_program = action, host, arch_of, arch_of_program
        self.mirror = mirror
        self.relays = lambda sha256: ()  # gives where at its site the node finds a file: addresses, a path of its own
        self.turn = contextlib.nullcontext  # what is entered while a file crosses the link
        self._connection = action._connection
        become = self._connection.become
        wants_terminal = become and (getattr(become, 'require_tty', False) or not getattr(become, 'pipelining', True))
        self._piped = is_core_ssh(self._connection) and not wants_terminal  # standard input, no terminal
        self._kept = 'It was not put in place'  # until a plan knows what is there

    def fail(self, text):
        raise StagingError(f'{self._host}: {text}')

    # --- look

    def look(self, *targets):
        """Return the :class:`Node` for each :class:`Target`, from one command on the node."""
        words = [secrets.token_hex(8) for _target in targets]
        calls = ''.join(shell_program('look', word=word, **target.variables()) for word, target in zip(words, targets))
        result = self._ask(LOOK + calls, words[-1], 'look at ' + ', '.join(target.dest for target in targets))
        found = [answers(result['stdout'], word) for word in words]
        for each, target in zip(found, targets):
            if 'end' not in each:
                self.fail(f'cannot look at {target.dest} on the node: {said(result)}')
        return [parse_node(each, self._arch_of, self._arch_of_program) for each in found]

    def leads_to(self, folder, other):
        """Tell whether two folders of the node are the same one, through links."""
        word = secrets.token_hex(8)
        program = shell_program(SAME_FOLDER, word=word, same='', a=folder, b=other)
        result = self._ask(program, word, f'compare {folder} and {other}')
        return f'{word}yes' in result['stdout']

    def ask(self, script, what, **values):
        """Run a shell program that answers with a word; return its answers and what ansible-core says of it.

        values: its shell variables. What answers nothing is run once more, as :meth:`_ask` says.
        """
        word = secrets.token_hex(8)
        result = self._ask(shell_program(script, word=word, **values), word, what)
        return answers(result['stdout'], word), result

    def _ask(self, program, word, what):
        """Run a program; where it does not answer with *word*, so that it never began, once more on a terminal.

        sudo with requiretty wants one, and so may other ways to become another user.
        """
        result = self._run(program, what)
        if self._piped and word not in result['stdout']:
            self._piped = False
            result = self._run(program, f'{what}, on a terminal')
        return result

    def _run(self, program, what):
        """Run a shell program on the node, as the user that the task becomes; return what ansible-core says of it."""
        display.vvv(f'K3S ARTIFACT: {what}', host=self._host)
        values = {'block': BLOCK, 'age': STALE, 'limit': TRIAL_SECONDS, 'nobody': NOBODY}
        command = shell_command(shell_program(program, **values))
        return execute(self._action, command, in_data=b'\n' if self._piped else None)

    # --- plan

    def plan(self, job, node):
        """Return the :class:`Plan` for *job* on *node*, after comparing what waits there with the file."""
        resume = 0
        partial = node.partial(job.artifact.sha256)
        if partial and partial.length <= job.artifact.size and node.sha256 != job.artifact.sha256:
            with self._opened(job.artifact.source) as file:
                resume = resume_at(file, job.artifact.source, partial)
        absent = node.kind == 'absent'
        self._kept = f'Nothing is at {job.dest}' if absent else f'What was at {job.dest} before is still there'
        planned, lacking = plan(job, node, resume), self.mirror.only and self._lacking_at_mirror(job.artifact.source)
        if lacking and planned.to_send and not planned.refusal and not self.relays(job.artifact.sha256):
            return planned._replace(refusal=f'{lacking}, and k3s_artifact_url_only forbids to send it')
        return planned

    def _lacking_at_mirror(self, source):
        """Say why the mirror does not have a file; '' where it may have it, or there is no mirror."""
        mirror = self.mirror
        return '' if not mirror.url or mirror.url_of(source) else (
            f'{source} is not below the artifact directory {mirror.root or "(there is none)"}, so the mirror does not '
            f'have it')

    # --- send and install

    def deliver(self, target, decide, sends, opened):
        """Look at the :class:`Target` and do what *decide* makes of it.

        decide: gets the :class:`Node`; returns it as it counts, the :class:`Job` and the :class:`Plan`, the last one
        None where there is nothing to bring; or raises. sends: whether anything may be done. opened: a connection to
        the node is likely open, and shared with other tasks.
        Return the three, what the install program answered, None if nothing was done, and the way that was taken.
        """
        decision, report, way = None, None, ''
        if sends and self._piped and not opened and not self.mirror.url:
            decision, report, way = self._converse(target, decide)
        node, job, planned = decision or decide(self.look(target)[0])
        if sends and report is None and planned and planned.action != 'nothing':
            report, way = self.send_and_install(job, node, planned)
        return node, job, planned, report, way

    def _converse(self, target, decide):
        """Look, send and install in one session, which is opened once where each would open one of its own.

        Return what *decide* returned, what the install program answered and the way that was taken: None where this way
        does not lead there, or where it is to be done in another one.
        """
        word, decision = secrets.token_hex(8), []

        def hold(fh, in_data, ssh_process):
            os.write(fh.fileno(), b'\n')
            said_of_node = heard(ssh_process.stdout, f'{word}end='.encode())
            if said_of_node is None:  # ssh has ended, or what becomes root has: the plugin and the result say why
                return
            decision[:] = decide(parse_node(answers(said_of_node, word), self._arch_of, self._arch_of_program))
            if not is_to_send(decision[2]):
                os.write(fh.fileno(), b'\n')
                return
            node, job, planned = decision
            with self._opened(job.artifact.source) as file:
                variables = shell_program('', word=word, **variables_of(job, node, planned))
                os.write(fh.fileno(), shell_command(variables).encode() + b'\n')
                self._pour(file, job, planned)(fh, in_data, ssh_process)

        def send(fh, in_data, ssh_process):
            try:
                hold(fh, in_data, ssh_process)
            except BrokenPipeError:  # ssh has ended
                pass
            except BaseException:
                ssh_process.kill()
                raise

        self._sent = 0
        try:
            with streaming(self._connection, send):
                program = shell_program(CONVERSE, word=word, **target.variables())
                result = self._run(program, f'look at {target.dest}, and stream what is missing to it')
        except AnsibleConnectionFailure as error:
            if not decision or not is_to_send(decision[2]):
                return None, None, ''
            node, job, planned = decision
            return (decision, *self._send_surely(job, node, planned, error=error))
        if not decision:
            self._piped = False  # as with sudo and requiretty
            return None, None, ''
        if not is_to_send(decision[2]):
            return decision, None, ''
        try:
            return decision, self._read(decision[1], word, result), 'stream'
        except PartialLost:
            return None, None, ''

    def send_and_install(self, job, node, planned):
        """Do what is *planned*; return what the install program answered and the way that was taken."""
        if planned.action == 'attributes':
            try:
                return self._answer(job, self._program(job, node, INSTALL_ONLY, waiting=''), 'set the attributes'), ''
            except PartialLost:
                self.fail(f'it says that a partial file of {job.dest} is lost, and none was asked for.')
        return self._send_surely(job, node, planned)

    def _send_surely(self, job, node, planned, **values):
        """Send; where somebody takes the partial file away meanwhile, once more from its beginning."""
        for _attempt in range(3):
            try:
                return self._send(job, node, planned, **values)
            except PartialLost:
                values.pop('error', None)
                node, = self.look(job.target)
                planned = self.plan(job, node)._replace(start=0)
                if planned.installed == 'same':
                    return {}, ''
        self.fail(f'the partial file in {os.path.dirname(job.dest)} was changed or taken away by somebody else, '
                  f'perhaps by another run against this node. Run again.')

    def send(self, job, node, planned):
        """Send the file and check it, without putting it in place.

        Return what waits on the node (waiting: "place pid", token: its seal), the way that was taken and the version
        that it printed; without waiting where another run has put the file in place meanwhile.
        """
        report, way = self._send_surely(job, node, planned, only='check')
        part, token = report.get('part', [''])[-1], report.get('token', [''])[-1]
        if report and not self.is_waiting(part, token):
            self.fail(f'answers {part!r} for what waits there, which is no answer. Nothing was put in place.')
        return {'waiting': part, 'token': token, 'way': way, 'version': report.get('version', [''])[-1]}

    @staticmethod
    def is_waiting(waiting, token):
        """Tell whether two texts are what :meth:`send` says of a file that waits."""
        return bool(re.fullmatch(r'(up|dir) [0-9]{1,10}', waiting) and re.fullmatch(r'[0-9 ]{1,60}', token))

    @staticmethod
    def path_of_waiting(job, waiting):
        """Return the path of the node where what :meth:`send` left of *job* waits."""
        place, pid = waiting.split()
        folder = os.path.dirname(job.dest) if place == 'dir' else os.path.dirname(os.path.dirname(job.dest))
        return os.path.join(folder, f'.k3s-artifact.{job.target.variables()["base"]}.{job.artifact.sha256}.{pid}.part')

    def place(self, *parts):
        """Put in place what :meth:`send` has left on the node, in one command, in order; stop at the first that fails.

        parts: (job, node, waiting, token); with waiting empty only the attributes of what is there are set.
        Return how many are done, and what went wrong with the next one (an error), or None.
        """
        programs = [
            self._program(job, node, 'put || exit 1', waiting=waiting, token=token, only='place' if waiting else '')
            for job, node, waiting, token in parts]
        calls = ''.join(program for _word, program in programs)
        result = self._ask(INSTALL_PARTS + calls, programs[0][0], f'put {len(parts)} files in place')
        for done, ((word, _program), part) in enumerate(zip(programs, parts)):
            found = answers(result['stdout'], word)
            if 'end' not in found:
                try:
                    self._raise(part[0], found, said(result))
                except PartialLost:
                    return done, StagingError(
                        f'{self._host}: what waited for {part[0].dest} was changed or taken away, perhaps by another '
                        f'run against this node. Run again.')
                except StagingError as error:
                    return done, error
        return len(parts), None

    @staticmethod
    def _program(job, node, script, planned=None, **values):
        word = secrets.token_hex(8)
        return word, shell_program(script, word=word, **{**variables_of(job, node, planned), **values})

    def _send(self, job, node, planned, error=None, **values):
        """Bring what is missing and run the rest of the program; return its answers and the way that was taken.

        error: how a session has broken in which *planned* was tried already.
        """
        if planned.start < job.artifact.size and error is None:
            report, way, node, planned = self._fetched(job, node, planned, **values)
            if report is not None:
                return report, way
        with self.turn():
            return self._push(job, node, planned, error, **values)

    def _push(self, job, node, planned, error, **values):
        """Send what is missing over the connection."""
        tries = 1 + int(self._connection.get_option('reconnection_retries')) if self._piped else 0
        while tries:
            if error is None:
                try:
                    return self._stream(job, node, planned, **values), 'stream'
                except AnsibleConnectionFailure as broken:
                    error = broken
            tries -= 1
            node, before = self._after_break(job, error), planned
            planned = self.plan(job, node)
            if planned.installed == 'same':
                return {}, 'stream'
            if planned.start <= before.start and self._sent <= 2 * BLOCK:  # no more than a pipe holds: no session
                display.vvv(f'K3S ARTIFACT: no stream to the node ({error}): the file goes the way of put_file',
                            host=self._host)
                break
            if not tries:
                raise self._broken(job, planned.start, error)
            error = None
        return self._put(job, node, planned, **values), 'put_file'

    def _fetched(self, job, node, planned, **values):
        """Let the node fetch the file from where it may be.

        Return (answers, way, node, plan); answers is None where it has to be sent, from where the plan says.
        """
        for way, address, mirror in self._sources(job):
            try:
                with self.turn() if way == 'fetch' else contextlib.nullcontext():
                    return self._fetch(job, node, planned, address, mirror, **values), way, node, planned
            except (NotFetched, AnsibleConnectionFailure) as error:
                whose = 'the relay of its site' if way == 'relay' else 'the mirror'
                why = f'{address} did not come from {whose}: {plain(to_text(error))}'
                if mirror.only:
                    self.fail(f'{why}. k3s_artifact_url_only forbids to send it. {self._kept}.')
                display.warning(f'{self._host}: {why}. What is missing comes another way.')
                node = self._after_break(job, error)
                planned = self.plan(job, node)
                if planned.installed == 'same':
                    return {}, '', node, planned
        return None, '', node, planned

    def _sources(self, job):
        """Yield (way, address, mirror) for each place from which the node may fetch the file of *job*."""
        source, mirror = job.artifact.source, self.mirror
        for address in self.relays(job.artifact.sha256):
            yield 'relay', address, Mirror(direct=True)
        if mirror.url_of(source):
            yield 'fetch', mirror.url_of(source), mirror
        elif mirror.url:
            why = self._lacking_at_mirror(source)
            if mirror.only:
                self.fail(f'{why}, and k3s_artifact_url_only forbids to send it. {self._kept}.')
            display.warning(f'{self._host}: {why}: it is sent.')

    def _fetch(self, job, node, planned, url, mirror, **values):
        """Run the program that fetches what is missing and does the rest; return its answers."""
        secrets_ = ''
        if mirror.secrets:
            secrets_ = self._temporary('secrets')
            write_text(self._action, secrets_, mirror.secrets)
        values = {**values, 'ca': mirror.ca, 'url': url, 'from': '' if self._piped else 'none', 'secrets': secrets_,
                  'direct': 'yes' if mirror.direct else '', 'rate': mirror.rate or '', 'patience': PATIENCE,
                  'least': LEAST}
        word, program = self._program(job, node, FETCH + RECEIVE_AND_INSTALL, planned, **values)
        with streaming(self._connection, held_open) if self._piped else contextlib.nullcontext():
            result = self._run(program, f'fetch {url} to {job.dest}')
        found = answers(result['stdout'], word)
        if 'end' in found:
            return found
        kind = found.get('failed', [''])[-1]
        if kind in ('fetch', 'short', 'digest', ''):
            raise NotFetched('it is another file' if kind == 'digest' else found.get('reason', [said(result)])[-1])
        return self._raise(job, found, said(result))

    def _temporary(self, name):
        """Return a path in the one folder that all files of the task have on the node."""
        return shell_of(self._connection).join_path(remote_folder(self._action), name)

    def _after_break(self, job, error):
        """Look at the node after a broken connection; where that is not possible, tell of the broken connection."""
        try:
            return self.look(job.target)[0]
        except AnsibleError:
            raise self._broken(job, None, error) from None

    def _broken(self, job, there, error):
        there = '' if there is None else f' {there} bytes have arrived.'
        return AnsibleConnectionFailure(
            f'the connection broke while {job.artifact.source} was sent.{there} {self._kept}, and the next run '
            f'continues the transfer. {plain(to_text(error))}')

    def _stream(self, job, node, planned, **values):
        path, self._sent = job.artifact.source, 0  # a session that never began has taken nothing
        program = self._program(job, node, RECEIVE_AND_INSTALL, planned, **values)
        with self._opened(path) as file, streaming(self._connection, self._pour(file, job, planned)):
            return self._answer(job, program, f'stream {path} from byte {planned.start} to {job.dest}')

    def _pour(self, file, job, planned):
        """Return the function that writes the rest of the open *file* to ssh, and notes how many bytes it has taken."""
        path, size = job.artifact.source, job.artifact.size

        def write(fh, in_data, ssh_process):
            progress = Progress(self._host, os.path.basename(path), size, planned.start, self._action._task.no_log)
            if self.mirror.rate:
                progress = Paced(progress, planned.start, self.mirror.rate)
            file.seek(planned.start)
            stream = Stream(file, path, planned.start, size, progress)
            try:
                stream(fh, in_data, ssh_process)
            finally:
                self._sent = stream.sent
            progress.finish()
        return write

    def _put(self, job, node, planned, **values):
        temporary = self._temporary('artifact')
        if planned.start < job.artifact.size:
            with self._opened(job.artifact.source):
                self._connection.put_file(job.artifact.source, temporary)
            planned = planned._replace(start=0)
        program = self._program(job, node, RECEIVE_AND_INSTALL, planned, **{**values, 'from': temporary})
        self._piped = False
        return self._answer(job, program, f'install {job.dest} from {temporary}')

    def _opened(self, path):
        try:
            return open(path, 'rb', buffering=0)
        except OSError as error:
            raise StagingError(f'{self._host}: {path} was there when it was verified and cannot be read now: '
                               f'{error.strerror}. Put it back and run again. Nothing was changed.') from None

    def _answer(self, job, program, what):
        """Run (word, program) of a verb that changes something; return its answers, or fail with what it says."""
        word, text = program
        return self._read(job, word, self._run(text, what))

    def _read(self, job, word, result):
        """Return the answers with *word* in the result of a command, or fail with what it says."""
        found = answers(result['stdout'], word)
        if 'end' not in found:
            self._raise(job, found, said(result))
        return found

    def _raise(self, job, found, output):
        kind, reason = found.get('failed', [''])[-1], found.get('reason', [''])[-1]
        if kind in ('gone', 'busy'):
            raise PartialLost
        source = job.artifact.source
        message = {
            'machine': f'it said before that it was another machine than {reason!r}, which it says now',
            'folder': f'the folder of {job.dest} cannot be made: {reason}',
            'write': f'{job.dest} cannot be written on the node: {reason}',
            'short': f'{source} arrived incomplete. It became shorter during the run, or the transfer broke. Run again',
            'digest': f'what arrived is not the file that was verified: {source} was changed during the run, or the '
                      f'transfer was damaged. Run again',
            'nodigest': NO_DIGEST,
            'run': f'the node cannot run the new binary ({reason}). Check that {source} is for its processor and that '
                   f'the file system allows programs to run; k3s_artifact_probe: false turns this check off',
            'attributes': f'owner, group or mode of {job.dest} cannot be set: {reason}',
            'directory': f'{job.dest} has become a directory',
            'previous': f'{job.dest} cannot be kept as {job.previous}: {reason}. Put that right, or set '
                        f'k3s_artifact_keep_previous: false',
            'rename': f'{job.dest} cannot be replaced: {reason}',
        }.get(kind, f'{job.dest} cannot be installed: {reason or output}')
        self.fail(f'{message}. {self._kept}.')


def said(result):
    """Return what a command that failed said, in one line, without what ssh itself says of a connection that works."""
    noise = r'^(Warning: Permanently added|Shared connection to|\w{16}\w*=).*$'
    text = re.sub(noise, '', f'{result["stdout"]}\n{result["stderr"]}', flags=re.MULTILINE)
    return plain(' '.join(text.split())[-LONGEST_ANSWER:]) or f'exit status {result["rc"]}'


def is_read_by_people():
    """Tell whether a person reads what the run prints, as against a program: a JSON callback, ``ansible -o``."""
    callback = str(C.DEFAULT_STDOUT_CALLBACK).rpartition('.')[2]
    return callback not in ('json', 'jsonl', 'oneline', 'null') and not (context.CLIARGS or {}).get('one_line')


def progress_line(host, name, done, size, sent, seconds):
    """Say how far a transfer is. *sent* bytes in *seconds* give the rate; *done* counts what was there before."""
    rate = max(sent / seconds, 1)
    left = 'done' if done >= size else f'{(size - done) / rate:.0f} s left'
    return (f'{host}: {name} {100 * done // max(size, 1)} % ({done / 1e6:.1f} of {size / 1e6:.1f} MB, '
            f'{rate / 1e6:.1f} MB/s, {left})')


class Progress:
    """Print how far a transfer is, once it has lasted some seconds, and when it is done: on standard error."""

    def __init__(self, host, name, size, start, silent):
        self._host, self._name, self._size, self._start = host, name, size, start
        self._silent = silent or not is_read_by_people()
        self._began = self._printed = time.monotonic()
        self._any = False

    def at(self, done):
        now = time.monotonic()
        if now - self._began < PROGRESS_AFTER or now - self._printed < PROGRESS_EVERY or done >= self._size:
            return
        self._print(done, now)

    def finish(self):
        if self._any or time.monotonic() - self._began >= PROGRESS_AFTER:
            self._print(self._size, time.monotonic())

    def _print(self, done, now):
        self._any, self._printed = True, now
        if not self._silent:
            line = progress_line(self._host, self._name, done, self._size, done - self._start, now - self._began)
            display.display(line, stderr=True)


# --- names that ansible-core does not promise ------------------------------------------------------------------------
#
# Each stands behind one function, which says what happens with a release of ansible-core that has it no more. That of
# _send_initial_data, which streaming replaces, is is_core_ssh.


def unpromised(thing, name, purpose):
    """Return the attribute *name* of an object of ansible-core; where it is gone, the task fails and says for what."""
    try:
        return getattr(thing, name)
    except AttributeError:
        raise StagingError(f'this release of ansible-core has no {name}, which copy needs to {purpose}. Use one that '
                           f'README.md names. Nothing was changed.') from None


def execute(action, command, in_data):
    """Run a command on the node. Without the name no node can be looked at, and every task that stages fails."""
    return unpromised(action, '_low_level_execute_command', 'run a command on the node')(command, in_data=in_data)


def shell_of(connection):
    """Return the shell plugin of a connection. Without the name every task that stages fails."""
    return unpromised(connection, '_shell', 'know the shell of the node')


def remote_folder(action):
    """Return the task's temporary folder on the node, the same for all of its files.

    Without the name what has to go the way of put_file fails, and what is streamed does not.
    """
    make = 'make a temporary folder on the node'
    return shell_of(action._connection).tmpdir or unpromised(action, '_make_tmp_path', make)()


def write_text(action, path, text):
    """Write a text into a file on the node. Without the name nothing is fetched with a secret, and the task fails."""
    unpromised(action, '_transfer_data', 'bring a secret to the node')(path, text)


def expand_home(action, path):
    """Return a path that begins with ``~`` as the node expands it. Without the name such a task fails."""
    return unpromised(action, '_remote_expand_user', f'know the folder that {path} means on the node')(path)


def becomes_unprivileged(action):
    """Tell whether a task becomes a user who is neither root nor the one who logs in.

    Without the name everybody but root is such a user: ansible-core's copy does the task.
    """
    become = action._connection.become
    if become is None or hasattr(action, '_is_become_unprivileged'):
        return become is not None and action._is_become_unprivileged()
    return become.get_option('become_user') not in (None, 'root')


def written_arguments(task):
    """Return a task as it is written. Without the name, an argument set to "omit" takes its module_defaults."""
    return (task.get_ds() if hasattr(task, 'get_ds') else None) or {}


def loop_keyword(task):
    """Return the lookup of a ``with_`` loop.

    Without the name, of the compressions of an archive that the loop hands over each is staged.
    """
    return getattr(task, 'loop_with', None)


# --- what the task asks for ------------------------------------------------------------------------------------------


def core_copy():
    """Return ansible-core's module of the copy action, from its own file.

    Its dotted name cannot be used: a drop-in file of the name copy.py is loaded under it.
    """
    name = '_k3s_artifact_core_copy'
    if name not in sys.modules:
        path = os.path.join(next(iter(ansible.plugins.action.__path__)), 'copy.py')
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def resolved(task, loader):
    """Return the file and the collection of the action plugin that *task* itself asks for, under whatever name."""
    found = loader.find_plugin_with_context(task.action, collection_list=task.collections)
    return found.plugin_resolved_path or '', found.plugin_resolved_collection or ''


def variables_of_target(task, task_vars):
    """Return the variables of the host on which the file lands: with delegate_to, that host's win.

    ansible-core from 2.21 on gives few variables of the delegated host with the task; the others are those of the
    inventory.
    """
    name = task.delegate_to
    if not name:
        return task_vars
    given = (task_vars.get('ansible_delegated_vars') or {}).get(name) or {}
    hostvars = task_vars.get('hostvars')
    of_inventory = hostvars.raw_get(name) if hostvars is not None and name in hostvars else {}
    variables = {**of_inventory, **given}
    if not variables:
        return {**task_vars, 'inventory_hostname': name, 'ansible_facts': {}, 'ansible_architecture': None}
    target = {'inventory_hostname': name}
    if 'ansible_facts' not in variables:
        target.update(ansible_facts={}, ansible_architecture=None)
    machine_of_first = set() if 'k3s_artifact_machine' in variables else {'k3s_artifact_machine'}
    return {key: value for key, value in {**task_vars, **variables, **target}.items() if key not in machine_of_first}


class Request(NamedTuple):
    """What a task asks for: a kind of file, for a path of the node."""

    kind: str  # binary, archive, script
    named: str | None  # the file of the controller that the task names
    dest: str
    mode: str  # unless the task says another


def checked_path(host, name, path):
    """Return the value *path* of a variable of the user as a path of the node; an empty one is left as it is."""
    if path and (not isinstance(path, str) or not path.startswith('/') or path.endswith('/') or '\0' in path):
        raise StagingError(f'{name} of {host} is {path!r}. Set it to an absolute path on the node.')
    return os.path.normpath(path).replace('//', '/') if path else path


def checked_switch(host, name, value):
    """Return the value of a variable of the user as True or False."""
    try:
        return boolean(value)
    except TypeError:
        raise StagingError(f'{name} of {host} is {value!r}. Set it to true or false.') from None


class ActionModule(core_copy().ActionModule):  # type: ignore[misc]

    def run(self, tmp=None, task_vars=None):
        self._task_vars = task_vars or {}
        self._vars = variables_of_target(self._task, self._task_vars)
        self._host = to_text(self._vars.get('inventory_hostname', ''))
        self._lookup = None
        with self._arguments(self._with_defaults_of_builtin()):
            try:
                request = self._request()
                if request is not None:
                    return wrap_var(self._stage(request, task_vars))
            except (AnsibleLookupError, StagingError) as error:
                known = wrap_var(self._known())
                raise AnsibleActionFail(wrap_var(to_text(error.message)), result={'k3s_artifact': known}) from None
            except AnsibleConnectionFailure as error:
                message = plain(' '.join(to_text(error.message).split()), LONGEST_ERROR)
                return {'unreachable': True, 'changed': False, 'msg': wrap_var(message)}
            return super().run(tmp, task_vars)

    def _request(self):
        """Return the :class:`Request` of a task that stages a file, None for any other."""
        arguments = self._task.args
        source, dest = arguments.get('src'), arguments.get('dest')
        is_file = isinstance(source, str) and arguments.get('content') is None and isinstance(dest, (str, type(None)))
        if not is_file or boolean(arguments.get('remote_src', False), strict=False):
            return None
        path, self._collection = resolved(self._task, self._shared_loader_obj.action_loader)
        if not path or not os.path.samefile(path, __file__):  # a template that calls copy inside
            return None
        self._install_path = self._checked_path('k3s_artifact_dest', INSTALL_PATH)
        return self._binary(source, dest) or self._script(source, dest) or self._archive(source, dest)

    def _binary(self, source, dest):
        homes = (self._install_path, INSTALL_PATH)
        place, name = os.path.normpath(dest).replace('//', '/') if dest else '', os.path.basename(source)
        if place in homes and not dest.endswith('/'):
            return Request('binary', self._find(source) or self._absolute(source), self._install_path, '0755')
        named = self._find(source)
        has_name = (name.startswith('k3s') or 'k3s_binary_map' in self._vars) and self._prepared().is_binary_name(name)
        if has_name and (not dest or place in map(os.path.dirname, homes)):
            return Request('binary', named or self._absolute(source), self._install_path, '0755')
        if not dest or not named or not os.path.isfile(named):
            return None
        folder, base = os.path.split(self._install_path)
        is_folder = dest.endswith('/') or os.path.basename(place) != base
        lands_in, lands_as = os.path.split(os.path.join(place, name) if is_folder else place)
        leads_there = lands_as == base and self._delivery().leads_to(lands_in, folder)
        if not leads_there:
            if not has_name or not self._prepared().is_elf_executable(named):
                return None
            display.warning(f'{dest} is not the install path of K3s: the binary goes to {self._install_path}. '
                            f'Set k3s_artifact_dest to move it on purpose.')
        return Request('binary', named, self._install_path, '0755')

    def _script(self, source, dest):
        folder = os.path.dirname(self._install_path)
        target = os.path.join(folder, INSTALL_SCRIPT_NAME)
        if os.path.basename(source) != INSTALL_SCRIPT_NAME or not dest:
            return None
        if os.path.normpath(dest) not in (folder, target):
            return None
        named = self._find(source)
        return Request('script', named, target, '0755') if named else None

    def _archive(self, source, dest):
        if not dest or not source.endswith(ARCHIVE_SUFFIXES):
            return None
        path, name = self._find(source), os.path.basename(source)
        names_file = dest.endswith(ARCHIVE_SUFFIXES)
        directory = os.path.normpath(os.path.dirname(dest) if names_file else dest)
        of_images = self._checked_path('k3s_artifact_images_dest', '')
        if not path or not os.path.isfile(path) or name.startswith('.'):
            return None
        if directory != of_images and not re.fullmatch(f'[/~].*{IMAGES_DIRECTORY}', directory):
            return None
        return Request('archive', path, os.path.join(directory, os.path.basename(dest) if names_file else name), '0644')

    def _find(self, source):
        try:
            return self._loader.path_dwim_relative_stack(self._task.get_search_path(), 'files', source)
        except AnsibleError:
            return None

    @staticmethod
    def _absolute(source):
        return source if os.path.isabs(source) else None

    def _checked_path(self, name, default):
        """Return the path of the node that the variable *name* says."""
        return checked_path(self._host, name, self._setting(name, default))

    def _setting(self, name, default=None):
        """Return the value of a variable of the host, expanded, or *default*."""
        return self._prepared().setting(name, default) if name in self._vars else default

    def _switch(self, name, default):
        return checked_switch(self._host, name, self._setting(name, default))

    # --- the task's arguments

    @contextlib.contextmanager
    def _arguments(self, arguments):
        """Run with other task arguments. The task's own are back afterwards: they serve the next try and loop item."""
        original, self._task.args = self._task.args, arguments
        try:
            yield
        finally:
            self._task.args = original

    def _with_defaults_of_builtin(self):
        """Return the arguments with the module_defaults of ansible.builtin.copy, which must go on applying to copy."""
        defaults = {}
        if self._task.action in ('copy', 'ansible.legacy.copy'):
            for entry in self._task.module_defaults or []:
                defaults.update(entry)
        defaults = self._templar.template(defaults.get('ansible.builtin.copy', {}))
        omit, omitted = self._vars.get('omit'), self._omitted()
        defaults = {key: value for key, value in defaults.items() if value != omit and key not in omitted}
        return {**defaults, **self._task.args}

    def _omitted(self):
        """Return the names of the arguments that the task sets to "omit": those take no default either."""
        written = written_arguments(self._task)
        places = [written[key] for key in (self._task.action, 'args') if isinstance(written.get(key), dict)]
        names = {name for place in places for name in place}
        return names - set(self._task.args)

    def _globs(self):
        """Return the patterns of a with_fileglob loop: what else the task is going to hand over."""
        if loop_keyword(self._task) != 'fileglob':
            return []
        patterns = self._templar.template(self._task.loop)
        patterns = [patterns] if isinstance(patterns, str) else patterns
        patterns = (os.path.normpath(os.path.expanduser(pattern)) for pattern in patterns)
        return [os.path.join('/*', re.sub(r'^(\.\./)+', '', pattern)) for pattern in patterns]

    def _obstacle(self, request):
        """Return what the task asks for and the install program does not do, or None."""
        arguments = self._task.args
        for name, value in arguments.items():
            if name in OWN_DEFAULTS:
                if boolean(value, strict=False) != OWN_DEFAULTS[name]:
                    return f'{name}: {value}'
            elif name not in OWN_ARGUMENTS and value is not None:
                return name
        if self._mode(request) is None:
            return f'mode: {arguments["mode"]}'
        if becomes_unprivileged(self):
            return 'become to an unprivileged user'
        return 'async' if self._task.async_val else None

    # --- which file

    def _prepared(self):
        """Return the lookup that lives beside this plugin, loose or in the same collection, prepared for the host."""
        if self._lookup is None:
            loader = self._shared_loader_obj.lookup_loader
            for name in filter(None, (self._collection and self._collection + '.k3s_artifact', 'k3s_artifact')):
                self._lookup = loader.get(name, loader=self._loader, templar=self._templar)
                if self._lookup is not None:
                    break
            else:
                raise StagingError('the lookup plugin k3s_artifact was not found, which copy needs to choose a K3s '
                                   'binary. Put k3s_artifact.py into a folder lookup_plugins/ beside the playbook.')
            if self._task.delegate_to:  # no fact of the first host may decide for the delegated one
                self._lookup.prepare(self._task_vars)
            self._lookup.prepare(self._vars)
        return self._lookup

    def _delivery(self):
        lookup = self._prepared()
        mirror = mirror_of(self._host, self._setting, lambda: lookup.root)
        return Delivery(self, self._host, lookup.arch_of, lookup.elf_arch, mirror)

    def _job(self, request):
        """Return the :class:`Job` for a request, or why its file is not for the host, as text."""
        lookup, arguments = self._prepared(), self._task.args
        if request.kind == 'archive':
            reason = lookup.refuses_archive(request.named, self._globs())
            if reason:
                return reason
        verified = {'binary': lookup.binary, 'archive': lookup.archive, 'script': lookup.script}[request.kind]
        artifact = verified(request.named)
        mode = self._mode(request)
        can_run = request.kind == 'binary' and mode is not None and int(mode, 8) & 0o111 != 0
        trial = can_run and self._trial()
        keeps = request.kind == 'binary' and self._switch('k3s_artifact_keep_previous', False)
        return Job(artifact, request.kind, request.dest, mode, arguments.get('owner'), arguments.get('group'), trial,
                   self._switch('k3s_artifact_downgrade', False), self._task.check_mode, keeps)

    def _mode(self, request):
        mode = self._task.args.get('mode')
        return octal_mode(request.mode if mode is None else mode)

    def _trial(self):
        return self._switch('k3s_artifact_probe', True)

    def _skipped(self, request, reason):
        return {'changed': False, 'skipped': True, 'skip_reason': reason, 'msg': reason, 'dest': request.dest,
                'k3s_artifact': {**self._known(), 'source': request.named}}

    def _known(self):
        """Return what is known of the node although no file was found for it."""
        try:
            host = self._prepared().host
        except AnsibleError:
            return {}
        return {'machine': host.machine, 'arch': host.arch}

    # --- staging

    def _stage(self, request, task_vars):
        """Put the file of *request* on the node and return the result of the task."""
        if request.dest.startswith('~'):
            request = request._replace(dest=expand_home(self, request.dest))
        lookup, delivery, job = self._prepared(), self._delivery(), None
        target = Target(request.dest, request.kind, trial=request.kind == 'binary' and self._trial())
        if lookup.knows_machine():
            job = self._job(request)
            if isinstance(job, str):
                return self._skipped(request, job)
            if shell_of(self._connection).SHELL_FAMILY != 'sh':
                return self._through_core(job, None, None, task_vars, 'a shell that is not POSIX')
            target = job.target

        def decide(node):
            if not lookup.knows_machine():
                lookup.prepare(self._vars, machine=node.machine)
            chosen = job or self._job(request)
            if isinstance(chosen, str):
                return node, chosen, None
            node = node._replace(arch=chosen.artifact.arch) if lookup.get_option('machine') else node
            planned = delivery.plan(chosen, node)
            if planned.refusal:
                raise StagingError(f'{self._host}: {planned.refusal}. Nothing was changed.')
            return node, chosen, planned

        obstacle = self._obstacle(request)
        sends = not (obstacle or self._task.check_mode)
        node, job, planned, report, way = delivery.deliver(target, decide, sends, self._has_gathered_facts())
        if planned is None:
            return self._skipped(request, job)
        if obstacle:
            if delivery.mirror.only:
                raise StagingError(f'{self._host}: {obstacle} is left to copy of ansible-core, which sends the file. '
                                   f'k3s_artifact_url_only forbids that. Leave out one of them. Nothing was changed.')
            display.vvv(f'the short path does not do {obstacle}: {job.dest} goes through copy of ansible-core',
                        host=self._host)
            return self._through_core(job, node, planned, task_vars, obstacle)
        result = result_of(job, node, planned)
        if self._task.diff and result['changed']:
            result['diff'] = [difference(job, node)]
        if report is not None:
            result.update(parse_status(report))
            result['k3s_artifact'].update(way=way, came=CAME[way])
            note_version(result, report)
        return result

    def _has_gathered_facts(self):
        """Tell whether facts were gathered before this task, so that a connection to the node is likely open."""
        facts = self._vars.get('ansible_facts')
        return isinstance(facts, Mapping) and bool(facts.get('module_setup'))

    def _through_core(self, job, node, planned, task_vars, obstacle):
        if job.keeps:
            raise StagingError(f'{self._host}: {obstacle} is for copy of ansible-core, which keeps no {job.previous}. '
                               f'Take it out of the task, or set k3s_artifact_keep_previous: false. Nothing was '
                               f'changed.')
        arguments = {**self._task.args, 'src': job.artifact.source, 'dest': job.dest}
        arguments['mode'] = job.mode or arguments['mode']
        arguments.setdefault('checksum', job.artifact.checksum)  # what arrives must be what was verified
        with self._arguments(arguments):
            result = super().run(None, task_vars)
        result['k3s_artifact'] = described(job, node, planned)
        if result.get('changed'):
            result['k3s_artifact'].update(way='copy', came='pushed')
        return result


def result_of(job, node, planned):
    """Return the result of a task that has done nothing yet; "changed" says whether there is something to do."""
    return {
        'changed': planned.action != 'nothing', 'dest': job.dest, 'state': 'file', **node.status,
        'size': job.artifact.size, 'mode': job.mode, 'checksum': job.artifact.checksum,
        'k3s_artifact': described(job, node, planned),
    }


def described(job, node, planned):
    """Return what was chosen for the node, for the key k3s_artifact of the result."""
    keys = ('machine', 'arch', 'source', 'size', 'sha256', 'verified', 'version')
    result = {key: getattr(job.artifact, key) for key in keys}
    if node is not None:
        result.update(
            kind=job.kind, installed=planned.installed, action=planned.action, bytes_to_send=planned.to_send,
            free=node.free, previous=kept(job, planned),
            node_version=job.artifact.version if planned.installed == 'same' else node.version,
            came='there' if planned.to_send == 0 else '')
    return result


def kept(job, planned):
    """Return under which name what a job replaces stays on the node, '' where it does not."""
    return job.previous if planned.action == 'replace' else ''


def difference(job, node):
    def text(sha256, size, mode):
        return f'sha256 {sha256 or "another"}\nsize {size}\nmode {mode}\n'
    before = text(node.sha256, node.status['size'], node.status['mode']) if node.kind == 'file' and node.status else ''
    return {'before_header': job.dest, 'after_header': job.artifact.source, 'before': before,
            'after': text(job.artifact.sha256, job.artifact.size, job.mode)}


def note_version(result, report):
    """Take the version that the new binary printed on the node into the result."""
    printed = re.search(r'\bv[0-9][\w.+-]*', report.get('version', [''])[-1])
    if printed:
        result['k3s_artifact']['version'] = printed.group(0)
