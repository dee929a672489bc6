# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server that nodes fetch from and that can go wrong, and certificates for it."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import os
import re
import secrets
import ssl
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ADDRESS = '127.0.0.1'
PAGE = b'<html>Please log in</html>' * 20
ENDLESS = 20 << 20  # bytes beyond the end of the file


class MirrorServer:
    """A web server for a folder; *asked* has (path, headers) of each request, *sent* counts bytes of bodies.

    fault  what goes wrong: 404, 500, 302, login page, another file, endless, cut (at half), drip, no range
    of     a pattern for the names of the files for which it goes wrong
    """

    def __init__(self, folder, fault='', of='.*', certificate=None):
        self.folder, self.fault, self.of, self.asked, self.sent = folder, fault, of, [], 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                with contextlib.suppress(OSError):
                    outer.answer(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """A client that goes away, or believes no certificate, is none of this server's business."""

        self.server = Server((ADDRESS, 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake in the thread of each connection: a client that refuses the certificate stops no other.
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                     do_handshake_on_connect=False)
        self.url = f'http{"s" if certificate else ""}://{ADDRESS}:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        self.asked.append((request.path, dict(request.headers)))
        path = self.folder / request.path.replace('%2B', '+').lstrip('/')
        fault = self.fault if re.fullmatch(self.of, path.name) else ''
        if fault in ('404', '500', '302') or not path.is_file():
            request.send_response(int(fault) if fault else 404)
            if fault == '302':
                request.send_header('Location', f'{self.url}/elsewhere{request.path}')
            return self.body(request, PAGE)
        data = path.read_bytes()
        if fault == 'login page':
            request.send_response(200)
            return self.body(request, PAGE)
        if fault == 'another file':
            data = os.urandom(len(data))
        if fault == 'endless':
            data += bytes(ENDLESS)
        start = re.fullmatch(r'bytes=(\d+)-', request.headers.get('Range', ''))
        if start and fault != 'no range':
            request.send_response(206)
            request.send_header('Content-Range', f'bytes {start[1]}-{len(data) - 1}/{len(data)}')
            data = data[int(start[1]):]
        else:
            request.send_response(200)
        if fault == 'endless':
            request.end_headers()
            request.wfile.write(data)
            return None
        return self.body(request, data, {'cut': len(data) // 2, 'drip': 1000}.get(fault), fault == 'drip')

    def body(self, request, data, length=None, drip=False):
        request.send_header('Content-Length', str(len(data)))
        request.end_headers()
        request.wfile.write(data[:length])
        self.sent += len(data[:length])
        while drip:
            request.wfile.write(b'.')
            time.sleep(0.5)


def write_certificates(folder):
    """Write a CA into a folder, ca.pem, and a certificate that it has signed for the server, with its key: server.pem.

    Return the paths of the two.
    """
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _number in range(2))
    ca_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
                     for text in (f'CA {secrets.token_hex(4)}', ADDRESS))
    ca = signed(ca_name, ca_key.public_key(), ca_name, ca_key, x509.BasicConstraints(ca=True, path_length=0))
    server = signed(name, key.public_key(), ca_name, ca_key,
                    x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))]))
    pem = serialization.Encoding.PEM
    paths = folder / 'ca.pem', folder / 'server.pem'
    paths[0].write_bytes(ca.public_bytes(pem))
    paths[1].write_bytes(server.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


def signed(subject, key, issuer, issuer_key, extension):
    """Return a certificate that is valid for a day."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=False)
    builder = builder.not_valid_before(now - datetime.timedelta(hours=12))
    return builder.not_valid_after(now + datetime.timedelta(hours=12)).sign(issuer_key, hashes.SHA256())
