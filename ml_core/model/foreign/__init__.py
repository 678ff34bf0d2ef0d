"""Models trained elsewhere: what their files say, and the graph that serves them as our own are served."""
