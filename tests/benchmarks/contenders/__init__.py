"""What tickwise is measured against, each in its idiomatic form."""
