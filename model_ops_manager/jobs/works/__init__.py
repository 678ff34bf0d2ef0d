"""What jobs do, a module a kind."""
