"""Settings of the archiver."""

from pydantic import Field

from data_io.settings import CommonSettings


class ArchiveSettings(CommonSettings):
    """Settings of ``tickwise archive``; ``archive`` itself is one of all processes."""

    archive_file_mb: float = Field(
        default=128.0, gt=0, le=4096, description="a file is closed once so much of it is written"
    )
    archive_flush_s: float = Field(
        default=600.0, gt=0, le=86_400, description="and once its first record is so old: the archive lags no more"
    )
    archive_memory_mb: int = Field(
        default=256, ge=16, le=65_536, description="records in memory before they are written, uncompressed"
    )
    archive_host: str = "127.0.0.1"
    archive_port: int = Field(default=0, ge=0, le=65535, description="port of /livez, /readyz and /metrics; 0: none")
