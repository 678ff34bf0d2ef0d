"""The metrics of the archiver."""

from prometheus_client import Counter, Gauge

FILES = Counter("tickwise_archive_files_total", "Files written", ["topic"])
BYTES = Counter("tickwise_archive_bytes_total", "Bytes of files written", ["topic"])
OFFSETS = Counter("tickwise_archive_offsets_total", "Offsets archived", ["topic", "partition"])
LOST = Counter(
    "tickwise_archive_lost_offsets_total", "Offsets deleted before they were archived", ["topic", "partition"]
)
REFUSED = Counter("tickwise_archive_refused_records_total", "Records of a topic of rows that hold none", ["topic"])
FAILURES = Counter("tickwise_archive_failures_total", "Writes that failed and are tried again", ["topic", "partition"])
LAG = Gauge("tickwise_archive_lag_offsets", "Offsets in the topic that are not archived yet", ["topic", "partition"])
