"""What tickwise is measured against, each in its idiomatic and in its best form, and how each is started."""
