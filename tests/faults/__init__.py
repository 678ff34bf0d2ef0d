"""The fault bench: a real Kafka, real workers, real signals, and an oracle that says what was lost or doubled."""
