"""The whole path beside other engines: `make bench` measures it in short, `tickwise bench` in full."""
