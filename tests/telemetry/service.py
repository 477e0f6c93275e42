"""A service of four worker processes that share a socket and a cache, as under gunicorn.

``python service.py PORT FOLDER WORKERS OTLP_URL``: ``/ask?q=…&team=…`` answers through the cache,
``/metrics`` shows what Prometheus scrapes, and each worker exports to an OTLP receiver.
"""

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, generate_latest, multiprocess

from llm_cache_mem import LLMCache, Price, options
from llm_cache_mem.telemetry.otel import instrument
from llm_cache_mem.telemetry.prometheus import CacheMetrics

__all__: list[str] = []


def answer(messages: Any, model: str) -> Any:
    return {
        "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50},
    }


def export(cache: LLMCache, url: str) -> None:
    """Send the metrics and spans of this process to the OTLP receiver at *url*."""
    resource = Resource({"process.pid": os.getpid()})
    exporter = OTLPMetricExporter(f"{url}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=500)
    tracers = TracerProvider(resource=resource)
    spans = BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces"), schedule_delay_millis=500)
    tracers.add_span_processor(spans)
    instrument(cache, tracers, MeterProvider([reader], resource), tags=["team"])


def work(listener: socket.socket, folder: str, otlp: str) -> None:
    """Serve requests in this process."""
    cache = LLMCache(backend=f"{folder}/cache.db", prices={"m": Price(input=10.0, output=20.0)})
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    CacheMetrics({"answers": cache}, registry=registry, tags=["team"])
    export(cache, otlp)

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


def main(port: int, folder: str, workers: int, otlp: str) -> None:
    """Fork the workers, and wait for them."""
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    for _ in range(workers):
        if os.fork() == 0:
            work(listener, folder, otlp)
    while True:
        os.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
