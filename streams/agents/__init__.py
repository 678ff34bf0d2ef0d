"""The Faust agents: each a pure step and a thin attach."""
