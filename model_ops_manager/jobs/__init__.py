"""Training jobs: the store of their states, the runner, and the job itself."""
