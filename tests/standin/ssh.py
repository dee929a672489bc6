# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for ssh: runs the last argument with a shell of this machine, in the folder that stands for the host.

The host is the word before. What else it does is in the JSON file that K3S_STANDIN names; see standin.Standin. An open
master is a file at the control path that holds the login to which it leads, whatever the next call says, as with ssh.
"""

import fcntl
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time


def options(words):
    """Return the options of an ssh command line, the first of a name wins, and its flags."""
    found, flags, words = {}, '', iter(words)
    for word in words:
        if word == '-S':
            found.setdefault('controlpath', next(words))
        elif word.startswith('-o'):
            name, value = re.split(r'[\s=]+', (word[2:] or next(words)).strip(), maxsplit=1)
            found.setdefault(name.lower(), value.strip('"'))
        elif word in ('-F', '-i', '-p', '-l', '-J', '-b', '-e', '-E', '-L', '-R', '-D', '-W', '-c', '-m'):
            found.setdefault(word, next(words))
        elif word.startswith('-'):
            flags += word[1:]
    return found, flags


def target(here, host, found):
    """Return the login that is used, as user@host:port: an open master's or its own; None where it is refused."""
    login = f'{found.get("user", "")}@{host}:{found.get("port", 22)}'
    path = found.get('controlpath', 'none')
    master = None if path == 'none' else path
    if master and os.path.exists(master):
        with open(master, encoding='utf-8') as file:
            return file.read()
    if found.get('proxycommand') == 'false':
        return None
    with open(os.path.join(here['state'], f'logins-{host}'), 'a+', encoding='utf-8') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if here['logins'] is not None and len(file.read()) >= here['logins']:
            return None
        file.write('.')
    if master and found.get('controlmaster') in ('auto', 'yes'):
        with open(master, 'w', encoding='utf-8') as file:
            file.write(login)
    return login


def next_cut(here):
    """Return after how many bytes this call may be cut, None for never."""
    done = len([name for name in os.listdir(here['state']) if name.startswith('cut-')])
    return here['cuts'][done] if done < len(here['cuts']) else None


def relay(sink, call, limit, cut, rate):
    """Give the command what comes in, at *rate* bytes a second; count it; cut it where that is wanted."""
    began = time.monotonic()
    while True:
        try:
            data = os.read(0, 65536 if limit is None else min(65536, limit - call['bytes']))
        except OSError:  # a terminal that is gone
            data = b''
        if not data:
            break
        call['bytes'] += len(data)
        if rate:
            time.sleep(max(0, began + call['bytes'] / rate - time.monotonic()))
        try:
            os.write(sink.fileno(), data)
        except OSError:
            break
        if call['bytes'] == limit:
            cut.set()
            break
    sink.close()


def answer(here, output):
    """Return what a login prints with *output*: forged answers, those of earlier calls too, before and after it."""
    with open(os.path.join(here['state'], 'said'), 'ab+') as said:
        said.seek(0)
        earlier = said.read()
        said.write(output)
    forged = here['banner'].encode()
    return forged + earlier + output + (b'\n' if output[-1:] not in (b'', b'\n') else b'') + forged


def spoiler(here, host):
    """Return the source of chance for this call, the same one for the same seed, host and number of the call."""
    with open(os.path.join(here['state'], f'spoilt-{host}'), 'a+', encoding='utf-8') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write('.')
        file.flush()
        return random.Random(f'{here["seed"]} {host} {file.tell()}')


def spoil(chance, output, mark):
    """Return what a hostile node says in place of *output*."""
    evil = [b"{{ lookup('ansible.builtin.pipe', 'touch %s') }}" % mark,
            b'{%% set x = lookup("pipe", "touch %s") %%}' % mark, b'$(touch %s)' % mark,
            b'`touch %s`' % mark, b"'; touch %s; '" % mark, b'../../../etc/passwd', b'/', b'-1', b'0', b'9' * 5000,
            b'1e9', b'\0', b'\x1b[2J\x1b]0;title\x07',
            '\u202e\u2028\udcff'.encode('utf-8', 'surrogatepass'), b'\xff\xfe', b'yes', b'absent', b'file', b'aarch64',
            b's390x', b'0' * 64, b'', b' ', b'=', b'\r',
            bytes(chance.randrange(256) for _byte in range(chance.randrange(80)))]
    lines = output.splitlines(keepends=True)
    if not lines:
        return chance.choice([b'', output, b'\n'.join(chance.sample(evil, 3))])
    where = chance.randrange(len(lines))
    words = re.findall(rb'\s+|[^\s=]+|=', lines[where])

    def with_word(change):
        chosen = chance.randrange(len(words)) if words else 0
        words[chosen:chosen + 1] = change(words[chosen] if words else b'')
        return b''.join(lines[:where] + words + lines[where + 1:])
    return chance.choice([
        lambda: with_word(lambda word: [chance.choice(evil)]), lambda: with_word(lambda word: [chance.choice(evil)]),
        lambda: with_word(lambda word: [word, chance.choice(evil)]),
        lambda: with_word(lambda word: [chance.choice(evil), b' ', word]),
        lambda: with_word(lambda word: [re.sub(rb'[0-9]', lambda _: b'%d' % chance.randrange(10), word)]),
        lambda: with_word(lambda word: []), lambda: with_word(lambda word: [word] * 3),
        lambda: b''.join(lines[:where] + lines[where + 1:]),
        lambda: b''.join(lines[:where] + [lines[where]] * 2 + lines[where + 1:]),
        lambda: b''.join(chance.sample(lines, len(lines))), lambda: b''.join(lines[:where]),
        lambda: output[:chance.randrange(len(output))],
        lambda: b''.join(lines[:where] + [chance.choice(evil) + b'\n'] + lines[where:]), lambda: output + output,
        lambda: chance.randbytes(chance.randrange(2000)), lambda: output + chance.randbytes(1 << 20),
        lambda: chance.randbytes(1 << 20) + output,
        lambda: output.replace(b'\n', b'\r\n'), lambda: output.replace(b'\n', b''), output.upper, lambda: b'',
    ])()


def pieces(pipe, whole):
    """Yield what comes from *pipe*: all at once if *whole*, else what there is each time that nothing more comes."""
    output = b''
    while True:
        ready = whole or select.select([pipe], [], [], 0.3 if output else None)[0]
        data = os.read(pipe.fileno(), 65536) if ready else b''
        output += data
        if output and (not data if whole else not (ready and data)):
            yield output
            output = b''
        if ready and not data:
            return


def main():
    with open(os.environ['K3S_STANDIN'], encoding='utf-8') as file:
        here = json.load(file)
    words, host, command = sys.argv[1:-2], sys.argv[-2], sys.argv[-1]
    found, flags = options(words)
    call = {'host': host, 'options': found, 'flags': flags, 'argv': sys.argv[1:], 'bytes': 0, 'pid': os.getpid()}
    call['login'] = login = target(here, host, found)
    call['reached'] = reached = re.sub('.*@|:.*', '', login) if login else None
    call_file = os.path.join(here['state'], f'call-{time.time_ns()}-{os.getpid()}')
    status = 255
    if reached is None:
        print(f'{host}: Permission denied (second-factor).', file=sys.stderr)
    else:
        node = os.path.join(here['nodes'], reached)
        tty = 't' in flags
        environment = {**os.environ, 'PATH': os.path.join(node, 'programs') + ':' + os.environ['PATH'],
                       'STANDIN_TTY': 'yes' if tty else ''}
        limit, cut = next_cut(here), threading.Event()
        hostile = here['seed'] is not None
        captured = tty or here['banner'] or limit is not None or hostile
        process = subprocess.Popen(['/bin/sh', '-c', command], cwd=node, env=environment, stdin=subprocess.PIPE,
                                   start_new_session=True,
                                   stdout=subprocess.PIPE if captured else None,
                                   stderr=subprocess.STDOUT if tty else None)
        with open(call_file, 'w', encoding='utf-8') as file:
            json.dump(call, file)
        threading.Thread(target=relay, args=(process.stdin, call, limit, cut, here['rate']), daemon=True).start()
        chance = spoiler(here, reached) if hostile else None
        for output in pieces(process.stdout, tty) if captured else ():
            if cut.is_set():
                break
            said = answer(here, output) if here['banner'] else output
            for _part in range(chance.choice([0, 0, 0, 1, 1, 2, 5]) if hostile else 0):
                said = spoil(chance, said, here['mark'].encode())
            if hostile and output.splitlines()[-1] not in said:  # its last word; without it nobody goes on
                os.killpg(process.pid, signal.SIGKILL)
            sys.stdout.buffer.write(said.replace(b'\n', b'\r\n') if tty else said)
            sys.stdout.flush()
        status = process.wait()
        if cut.is_set():
            open(os.path.join(here['state'], f'cut-{os.getpid()}'), 'w', encoding='utf-8').close()
            print(f'client_loop: send disconnect: Broken pipe\nConnection to {host} closed by remote host.',
                  file=sys.stderr)
            status = 255
        if hostile:
            status = status if chance.random() < 0.9 else chance.randrange(256)
            if chance.random() < 0.2:
                os.write(2, spoil(chance, b'sh: 1: k3s: not found\n', here['mark'].encode())[:60000])
            time.sleep(2 * chance.random() if chance.random() < 0.05 else 0)
    with open(call_file + '.new', 'w', encoding='utf-8') as file:
        json.dump({**call, 'rc': status}, file)
    os.replace(call_file + '.new', call_file)
    sys.stdout.flush()
    os._exit(status if status >= 0 else 128 - status)


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
