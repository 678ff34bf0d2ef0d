"""Kafka's Metadata request in version 12, the one that names topics by id; aiokafka stops at a version before ids.

All of aiokafka that this file and ``admin.py`` lean on beyond its public classes:

- ``client.AIOKafkaClient``: ``bootstrap``, ``get_random_node``, ``send``, ``close``, ``cluster.controller``
- ``errors.for_code`` and the ``retriable`` of what it returns
- ``protocol.api``: ``Request`` (``API_KEY``, ``build``), ``RequestStruct`` (``FLEXIBLE_VERSION``), ``Response``
- ``protocol.types``: the names imported below
- ``protocol.admin.CreateTopicsRequest`` and the ``topic_errors`` of its answer

Source: https://kafka.apache.org/protocol#The_Messages_Metadata
"""

import base64
from collections.abc import Sequence
from io import BytesIO

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

API_KEY = 3
VERSION = 12
_NO_ID = "A" * 22  # 16 zero bytes: the topic is asked for by name


class Uuid(AbstractType):  # type: ignore[misc]  # aiokafka's types are not followed
    """16 bytes, in the form Kafka prints them: base64url without padding.

    >>> Uuid.decode(BytesIO(Uuid.encode("kW4Uyd6cQHeUkRXvVPUrkw")))
    'kW4Uyd6cQHeUkRXvVPUrkw'
    """

    @classmethod
    def encode(cls, value: str) -> bytes:
        """Return the 16 bytes of ``value``."""
        return base64.urlsafe_b64decode(value + "==")

    @classmethod
    def decode(cls, data: BytesIO) -> str:
        """Return the next 16 bytes as text."""
        return base64.urlsafe_b64encode(data.read(16)).rstrip(b"=").decode()


_NAME = CompactString("utf-8")


class MetadataResponse_v12(Response):  # type: ignore[misc]  # noqa: N801  # named as its siblings in aiokafka
    """Brokers and topics."""

    API_KEY = API_KEY
    API_VERSION = VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(("node_id", Int32), ("host", _NAME), ("port", Int32), ("rack", _NAME), ("tags", TaggedFields)),
        ),
        ("cluster_id", _NAME),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _NAME),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class MetadataRequest_v12(RequestStruct):  # type: ignore[misc]  # noqa: N801  # named as its siblings in aiokafka
    """Topics asked for by name."""

    FLEXIBLE_VERSION = True
    API_KEY = API_KEY
    API_VERSION = VERSION
    RESPONSE_TYPE = MetadataResponse_v12
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", Uuid), ("name", _NAME), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class MetadataRequestWithIds(Request[MetadataRequest_v12]):  # type: ignore[misc]  # aiokafka's types are not followed
    """Asks for ``topics`` by name, and creates none."""

    API_KEY = API_KEY

    def __init__(self, topics: Sequence[str]) -> None:
        self.topics = topics

    def build(self, request_struct_class: type[MetadataRequest_v12]) -> MetadataRequest_v12:
        """Return the request; aiokafka calls this with the version it agreed on."""
        return request_struct_class([(_NO_ID, name, {}) for name in self.topics], False, False, {})
