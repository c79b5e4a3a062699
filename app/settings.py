"""Every setting of a process, read once from `FRONTRUNNER_...` in the environment. Read by entry points only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.service.presets import Presets
from app.service.webhooks.dispatcher import key_of

PREFIX = "FRONTRUNNER_"


class Settings(BaseSettings):
    """What an operator may choose. Units are in the names; a value that cannot work is refused with a sentence."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", str_strip_whitespace=True)

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    public_url: str = Field("", description="address that clients reach the service by, with which links begin")
    allowed_hosts: str = Field(
        "", description="host names that are served, by commas, *.example.com for all below one; empty for every name"
    )
    data_dir: Path = Field(
        Path("data"), description="folder of the database and the images, made if needed and closed to other users"
    )
    database_url: str = Field("", repr=False, description="database in place of the SQLite file in the data folder")
    blob_url: str = Field("", repr=False, description="image store in place of the folder in the data folder")

    generator: str = Field("pictogram", min_length=1, description="pack, folder or hub id that makes the images")
    generator_mode: Literal["auto", "native", "gate"] = Field(
        "auto", description="native loop where the family has one, else the stock pipeline; or one of them for all"
    )
    scorer: str = Field("pictogram", min_length=1, description="pack, folder or open_clip name/pretrained that ranks")
    calibration: Path | None = Field(None, description="file written by `frontrunner calibrate` for these models")
    preview_decoder: str = Field("", description="folder or hub id of a tiny decoder for previews; empty for none")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$", description="auto, cpu, cuda or cuda:1")

    presets: Path | None = Field(None, description="TOML file of presets in place of the ones that come along")

    max_candidates: int = Field(64, ge=1, le=1024, description="most candidates of one generation")
    default_candidates: int = Field(16, ge=1, le=1024, description="candidates when the request does not say")
    max_queued_candidates: int = Field(
        512, ge=1, le=100_000, description="most candidates of a replica, and as many in the queue of all, before 503"
    )
    max_steps: int = Field(150, ge=1, le=1000, description="most denoising steps of one candidate")
    max_prompt_chars: int = Field(4000, ge=1, le=100_000, description="longest text, in characters")
    max_images: int = Field(64, ge=1, le=1024, description="most images of one ranking")
    max_image_pixels: int = Field(40_000_000, ge=4096, le=1_000_000_000, description="largest upload, in pixels")
    max_total_pixels: int = Field(
        80_000_000,
        ge=4096,
        le=10_000_000_000,
        description="most pixels of the images of one ranking, or of its references, together",
    )
    decoders: int = Field(2, ge=1, le=64, description="processes that decode uploads, started when they are needed")
    decode_timeout_s: float = Field(15.0, gt=0, le=600, description="how long decoding one upload may take")
    decode_memory_mib: int = Field(
        1024, ge=64, le=1_048_576, description="most memory of a process that decodes, beyond its own 50 MiB"
    )
    max_connections: int = Field(
        1000,
        ge=16,
        le=100_000,
        description="most connections; fewer where the system's limit of open files, less 96, is lower",
    )
    max_profiles: int = Field(100, ge=1, le=100_000, description="most taste profiles of one key")
    max_profiles_mib: int = Field(
        64, ge=1, le=100_000, description="most MiB of the taste profiles of one key together"
    )
    max_body_mib: int = Field(32, ge=1, le=1024, description="largest request body")
    max_bodies_mib: int = Field(
        128, ge=1, le=1_048_576, description="most MiB of the bodies of all requests in progress, before 503"
    )
    body_timeout_s: float = Field(60.0, gt=0, le=3600, description="how long a request body may take to arrive")
    pruning: Literal["auto", "off"] = Field("auto", description="whether weak candidates are dropped on the way")
    pruning_quality: float = Field(0.97, gt=0, lt=1, description="share of the best-of-N gain that auto keeps")
    pruning_shadow: float = Field(0.0, ge=0, le=1, description="share of generations that measure pruning instead")

    lease_s: float = Field(60.0, ge=1, le=3600, description="silence after which a replica's generations count as lost")
    attempts: int = Field(
        2,
        ge=1,
        le=100,
        description="times a generation may be begun, should its replicas die; the second time it runs alone",
    )
    notice_s: float = Field(0.0, ge=0, le=600, description="how long a stopping server still takes requests, unready")
    drain_s: float = Field(30.0, ge=0, le=3600, description="how long a stopping server waits for what runs")
    stream_s: float = Field(3600.0, ge=1, le=86_400, description="longest life of one event stream; clients resume")
    stream_grace_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="how long a generation outlives its broken stream, for a client that resumes it",
    )
    retention_s: float = Field(604_800.0, ge=60, description="how long results are kept")
    sweep_s: float = Field(60.0, ge=1, le=3600, description="pause between two looks for what is old or lost")

    webhook_secret: str = Field("", repr=False, description="signs webhooks without a key: whsec_ and base64")
    webhook_private: bool = Field(False, description="whether webhooks may go to inner addresses, and over plain HTTP")

    telemetry: bool = Field(False, description="whether OpenTelemetry sends to the collector that OTEL_... names")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["console", "json"] = Field("console", description="for eyes, or one JSON object a line")

    @field_validator("data_dir")
    @classmethod
    def _own_folder(cls, value: Path) -> Path:
        path = value.expanduser().absolute()
        if path in {Path("/"), Path.home()}:
            raise ValueError("must be a folder of its own, not the root or the home folder")
        if path.exists() and not path.is_dir():
            raise ValueError("is a file; a folder is needed")
        return path

    @field_validator("presets")
    @classmethod
    def _are_presets(cls, value: Path | None) -> Path | None:
        if value is not None:
            Presets.read(value)
        return value

    @field_validator("database_url", "blob_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and "://" not in value:
            raise ValueError("must be a URL such as sqlite:///folder/file.db or file:///folder")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        fits = parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment)
        if value and not (fits and parts.username is None):
            raise ValueError("must be an address such as https://images.example.com or https://example.com/path")
        return value.rstrip("/")

    @field_validator("webhook_secret")
    @classmethod
    def _signs(cls, value: str) -> str:
        if value:
            key_of(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.max_queued_candidates < self.max_candidates:
            raise ValueError("MAX_QUEUED_CANDIDATES must be at least MAX_CANDIDATES, or the largest request never fits")
        if self.max_bodies_mib < self.max_body_mib:
            raise ValueError("MAX_BODIES_MIB must be at least MAX_BODY_MIB, or the largest body never fits")
        if self.default_candidates > self.max_candidates:
            raise ValueError("DEFAULT_CANDIDATES must be at most MAX_CANDIDATES")
        return self

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host names that are served, in lower case; none for every name."""
        return tuple(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())

    @property
    def database(self) -> str:
        """The database's URL: the one that was set, else the SQLite file in the data folder."""
        return self.database_url or f"sqlite:///{self.data_dir}/frontrunner.db"

    @property
    def blobs(self) -> str:
        """The image store's URL: the one that was set, else the folder in the data folder."""
        return self.blob_url or (self.data_dir / "blobs").as_uri()


def complaints(error: ValidationError) -> list[str]:
    """One line for each setting that was refused, fit for an operator; values are not repeated."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        name = PREFIX + "_".join(str(part) for part in problem["loc"]).upper() if problem["loc"] else "settings"
        lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
    return lines
