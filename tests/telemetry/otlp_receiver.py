"""An OTLP receiver on this machine: what OpenTelemetry's own exporters send it, by its protocol."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["OtlpReceiver", "otlp_receiver"]

Series = tuple[str, str, frozenset[tuple[str, str]]]


class OtlpReceiver:
    """The latest value of each series by process, and the spans. Counters are cumulative, and so
    are sums over processes."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Any] = []
        self._values: dict[Series, float] = {}
        self._lock = Lock()

    def total(self, name: str, **attributes: str) -> float:
        """The sum of the metric *name* over all processes and series with these *attributes*, whose
        names here have ``_`` for ``.``."""
        wanted = set(attributes.items())
        with self._lock:
            return sum(
                value
                for (_, metric, labels), value in self._values.items()
                if metric == name
                and wanted <= {(key.replace(".", "_"), text) for key, text in labels}
            )

    def take(self, path: str, body: bytes) -> bytes:
        """The response to a request of an exporter."""
        with self._lock:
            if path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.spans += [span for scope in resource.scope_spans for span in scope.spans]
                return bytes(ExportTraceServiceResponse().SerializeToString())
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                process = _text(resource.resource.attributes, "process.pid")
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        self._note(process, metric)
        return bytes(ExportMetricsServiceResponse().SerializeToString())

    def _note(self, process: str, metric: Any) -> None:
        data = getattr(metric, metric.WhichOneof("data"))
        for point in data.data_points:
            labels = frozenset((one.key, one.value.string_value) for one in point.attributes)
            value = getattr(point, point.WhichOneof("value")) if hasattr(point, "as_int") else None
            self._values[process, metric.name, labels] = point.count if value is None else value


def _text(attributes: Any, key: str) -> str:
    return next((str(one.value) for one in attributes if one.key == key), "")


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """A running receiver."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = receiver.take(self.path, body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
