"""Where past ticks and bars may go: files, lakes, topics."""
