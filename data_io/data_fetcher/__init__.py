"""Sources of past ticks, one adapter a file; `open_source` of `sources` picks one."""
