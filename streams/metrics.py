"""The metrics of the worker."""

from prometheus_client import Counter, Gauge, Histogram

TICKS = Counter("tickwise_ticks_total", "Ticks read, valid ones", ["topic"])
REJECTS = Counter("tickwise_dead_letters_total", "Records sent to the dead letters", ["topic", "reason"])
LATE = Counter("tickwise_late_ticks_total", "Late ticks, within lateness and beyond", ["topic", "beyond"])
ROWS = Counter("tickwise_rows_total", "Feature rows published", ["feature_set"])
PREDICTIONS = Counter("tickwise_predictions_total", "Predictions published", ["pipeline", "status"])
BARS = Counter("tickwise_bars_total", "Bars published", ["feature_set", "status"])
TOO_LATE = Counter("tickwise_too_late_ticks_total", "Ticks too late for any bar", ["feature_set"])
MISDATED = Counter(
    "tickwise_misdated_ticks_total", "Ticks in no bar: too far ahead, as the next one showed", ["feature_set"]
)
UNKNOWN_HOURS = Counter(
    "tickwise_unknown_hours_rows_total", "Rows outside all sessions that their calendar knows", ["feature_set"]
)
CALENDAR_END = Gauge("tickwise_calendar_end_seconds", "End of the last session that is known, Unix time", ["calendar"])
BATCH_SECONDS = Histogram(
    "tickwise_batch_seconds",
    "From a fetched batch to its outputs handed over",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
)
CHECKPOINTS = Counter("tickwise_checkpoints_total", "Checkpoints committed")
CHECKPOINT_SECONDS = Histogram(
    "tickwise_checkpoint_seconds", "Duration of a checkpoint", buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10)
)
RESTORE_SECONDS = Gauge("tickwise_restore_seconds", "Duration of the last takeover")
SWAPS = Counter("tickwise_model_swaps_total", "Model swaps, one a partition")
TAKEOVER_FAILURES = Counter("tickwise_takeover_failures_total", "Takeovers that failed and were tried again")
STALLED_SECONDS = Gauge("tickwise_stalled_seconds", "For how long ticks have waited and nothing has moved")
TASKS = Gauge("tickwise_event_loop_tasks", "Tasks of the event loop; about the same whenever the load is")
LAG = Gauge("tickwise_consumer_lag_ticks", "Ticks in the topic that were not processed yet", ["topic", "partition"])
PARITY_ROWS = Counter("tickwise_parity_rows_total", "Rows of parity samples, computed again and compared", ["result"])
PARITY_PREDICTIONS = Counter(
    "tickwise_parity_predictions_total", "Predictions of parity samples, computed again and compared", ["result"]
)
SHED_TICKS = Counter("tickwise_shed_ticks_total", "Offsets that were skipped to the latest", ["topic", "partition"])
