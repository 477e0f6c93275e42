"""A service of four worker processes that share a socket and a cache, as under gunicorn.

``python service.py PORT FOLDER WORKERS``: ``/ask?q=…&team=…`` answers through the cache, ``/metrics``
shows what Prometheus scrapes.
"""

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

from llm_cache_mem import LLMCache, Price, options
from llm_cache_mem.telemetry.prometheus import CacheMetrics

__all__: list[str] = []


def answer(messages: Any, model: str) -> Any:
    return {
        "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50},
    }


def work(listener: socket.socket, folder: str) -> None:
    """Serve requests in this process."""
    cache = LLMCache(backend=f"{folder}/cache.db", prices={"m": Price(input=10.0, output=20.0)})
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    CacheMetrics({"answers": cache}, registry=registry, tags=["team"])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            body = str(os.getpid()).encode()
            if url.path == "/metrics":
                body = generate_latest(registry)
            else:
                asked = parse_qs(url.query)
                with options(tags={"team": asked["team"][0]}):
                    cache.get_or_call(asked["q"][0], answer, model="m")
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.serve_forever()


def main(port: int, folder: str, workers: int) -> None:
    """Fork the workers, and wait for them."""
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    for _ in range(workers):
        if os.fork() == 0:
            work(listener, folder)
    while True:
        os.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
