"""Figures of the HTTP server in Prometheus' text format; one registry an app, so that two apps never mix."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        """Create them at zero."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tickwise_http_requests", "requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "tickwise_http_request_seconds", "time to the end of an answer", ["route"], registry=self.registry
        )
        self.predictions = Counter(
            "tickwise_http_predictions",
            "predictions answered over HTTP",
            ["pipeline", "status"],
            registry=self.registry,
        )
        self.event_streams = Gauge("tickwise_http_event_streams", "job event streams open now", registry=self.registry)
        self.model_version = Gauge(
            "tickwise_http_model_version",
            "version that answers predictions, 0: none",
            ["pipeline"],
            registry=self.registry,
        )
        self.latest_rows_ready = Gauge(
            "tickwise_latest_rows_ready",
            "1 when the newest feature rows are held",
            ["feature_set"],
            registry=self.registry,
        )
        self.latest_rows_symbols = Gauge(
            "tickwise_latest_rows_symbols", "symbols whose newest row is held", ["feature_set"], registry=self.registry
        )
        self.latest_rows_records = Counter(
            "tickwise_latest_rows_records", "feature records read", ["feature_set", "outcome"], registry=self.registry
        )
