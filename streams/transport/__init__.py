"""Everything that leans on private parts of aiokafka and Faust, pinned by tests/conformance/test_private_names.py."""
