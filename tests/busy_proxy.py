"""Test proxy in front of a gateway that answers an update with 503."""

import http.client
import http.server
import ssl
import threading
import urllib.parse


class BusyProxy(http.server.ThreadingHTTPServer):
    """TLS proxy that answers the first update with 503 and forwards all other requests."""

    daemon_threads = True

    def __init__(self, url, tls, authority):
        super().__init__(("127.0.0.1", 0), _Forward)
        self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.behind = urllib.parse.urlsplit(url).netloc
        self.trust = ssl.create_default_context(cafile=authority)
        self.busy, self.puts = 1, 0

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        """Ignores errors: a phone may refuse the certificate or be killed."""


class _Forward(http.server.BaseHTTPRequestHandler):
    def forward(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "PUT":
            server.puts += 1
            if server.busy:
                server.busy -= 1
                self.send_response(503)
                self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        connection = http.client.HTTPSConnection(server.behind, context=server.trust)
        connection.request(self.command, self.path, body or None, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name not in ("Date", "Server", "Connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.forward()

    def do_POST(self):
        self.forward()

    def do_PUT(self):
        self.forward()

    def log_message(self, *arguments):
        pass
