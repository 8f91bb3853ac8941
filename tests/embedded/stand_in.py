"""Stands in for `registry api` and `registry worker`: answers `/readyz`, `/environment`, and dies of `/crash`."""

import http.server
import json
import os
import signal
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            os._exit(3)
        body = json.dumps(dict(os.environ) if self.path == "/environment" else {"pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print("says", sys.argv[1:], flush=True)
    if sys.argv[1] == "api":
        http.server.ThreadingHTTPServer((sys.argv[3], int(sys.argv[5])), Handler).serve_forever()
    while True:
        time.sleep(1)
