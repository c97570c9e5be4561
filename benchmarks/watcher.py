"""Send the requests of an open status page and a Prometheus to the admin port, at their pace.

python benchmarks/watcher.py PORT
"""

from __future__ import annotations

import sys
import threading
import time
from http.client import HTTPConnection

PAGE_S = 2.0  # as page.js polls
SCRAPE_S = 5.0


def ask(port: int, *paths: str) -> None:
    for path in paths:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200, (path, answer.status)
        answer.read()
        connection.close()


def every(seconds: float, port: int, *paths: str) -> None:
    while True:
        ask(port, *paths)
        time.sleep(seconds)


def follow(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/api/events?level=warning")
    for _ in connection.getresponse():
        pass


def main() -> None:
    port = int(sys.argv[1])
    jobs = (
        (follow, port),
        (every, PAGE_S, port, "/api/status", "/api/machines?page=1&per_page=100"),
        (every, SCRAPE_S, port, "/metrics"),
    )
    for job, *arguments in jobs:
        threading.Thread(target=job, args=arguments, daemon=True).start()
    time.sleep(1)
    print("watching", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
