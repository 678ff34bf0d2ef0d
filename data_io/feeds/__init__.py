"""Live trades and best quotes of exchanges, from their public websockets."""
