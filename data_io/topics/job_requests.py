"""The topic ``jobs.requests.v1``: a JSON ``JobSpec`` a record, from any other system."""

from data_io.topics.admin import TopicSpec, log_topic

NAME = "jobs.requests.v1"


def topic_spec() -> TopicSpec:
    """Return the topic: one partition, a week of requests."""
    return log_topic(NAME, 1)
