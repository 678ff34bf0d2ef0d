"""The archive: ticks and rows as Parquet files addressed by offsets, so that training outlives retention."""
