"""The outside of tickwise: the HTTP server, its routers, and the command line."""
