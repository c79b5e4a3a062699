"""Settings of a process, read once from `FRONTRUNNER_...` in the environment.

Only entry points read them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from app.api.middleware.forwarded import TrustedProxies, clean_prefix
from app.service.aliases import DEFAULT, Aliases
from app.service.presets import Presets
from app.service.variants import check_rewriter
from app.service.webhooks.dispatcher import decode_secret
from app.settings.model_settings import ENV_PREFIX as ENV_PREFIX
from app.settings.model_settings import ModelSettings as ModelSettings
from app.settings.model_settings import names
from app.settings.models_file import ModelsFile
from app.settings.models_file import ServedModel as ServedModel
from app.settings.trust import TrustSettings
from app.stores.connections import DatabaseOptions
from models.guards.names import parse_guards
from models.protocols import Spread

MIN_LINK_KEY_CHARS = 32

_ORIGIN = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class Settings(TrustSettings, ModelSettings):
    """The operator's settings. Names hold the units; invalid values raise an error."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 selects a free one")
    public_url: str = Field("", description="base URL of the service for clients, used in links")
    root_path: str = Field("", description="path prefix under which clients see the service, such as /images")
    trusted_proxies: str = Field(
        "127.0.0.1,::1",
        description="addresses and networks of proxies whose X-Forwarded headers count, comma-separated; * for all",
    )
    cors_origins: str = Field(
        "", description="origins of browser apps that may call the service, comma-separated; * for all"
    )
    allowed_hosts: str = Field(
        "", description="accepted host names, comma-separated; *.example.com for all subdomains; empty for all"
    )
    data_dir: Path = Field(
        Path("data"), description="folder of the database and the images; created if missing, closed to other users"
    )
    database_url: str = Field("", repr=False, description="database URL; empty for SQLite in the data folder")
    database_connections: int = Field(
        10, ge=1, le=1000, description="maximum pooled PostgreSQL connections of a replica; it uses two more"
    )
    database_listen_url: str = Field(
        "", repr=False, description="PostgreSQL URL for notifications, past a pooler; empty for the database URL"
    )
    blob_url: str = Field("", repr=False, description="image store URL; empty for a folder in the data folder")

    guards: str = Field("artefact", description="guards of every ranking: artefact, typographic; empty for none")
    models: Path | None = Field(None, description="TOML file with several models; empty for the one of the settings")
    model_memory_mib: int = Field(
        0,
        ge=0,
        description="weights of all models of FRONTRUNNER_MODELS; idle ones on demand make room; 0 for no limit",
    )
    model_aliases: str = Field(
        DEFAULT,
        description="aliases of loaded models on the routes of other APIs: name=model, separated by commas; "
        "a name may be a pattern, the model * is the loaded one",
    )
    mcp: Literal["sessions", "stateless", "off"] = Field(
        "sessions",
        description="Model Context Protocol at /mcp: sessions binds a client to one replica, stateless does not",
    )
    spread_styles: Spread = Field("auto", description="draw open prompts in all styles")
    rewriter_url: str = Field("", description="chat API in OpenAI's shape that rewrites prompts; empty for none")
    rewriter_model: str = Field("", description="model of the rewriter")
    rewriter_key: str = Field("", repr=False, pattern=r"^[!-~]*$", description="key of the rewriter; empty for none")
    rewriter_timeout_s: float = Field(10.0, gt=0, le=120, description="maximum seconds for rewriting a prompt")
    rewriter_calls: int = Field(60, ge=1, le=100_000, description="maximum calls of the rewriter an hour, per replica")
    rewriter_private: bool = Field(False, description="whether the rewriter may use a private address and plain HTTP")
    presets: Path | None = Field(None, description="TOML file that replaces the built-in presets")

    max_candidates: int = Field(64, ge=1, le=1024, description="maximum candidates of one generation")
    default_candidates: int = Field(16, ge=1, le=1024, description="default candidates of a request")
    max_queued_candidates: int = Field(
        512, ge=1, le=100_000, description="maximum candidates of a replica, and of the shared queue, before 503"
    )
    max_steps: int = Field(150, ge=1, le=1000, description="maximum denoising steps of one candidate")
    max_prompt_chars: int = Field(4000, ge=1, le=100_000, description="maximum length of a text, in characters")
    max_images: int = Field(64, ge=1, le=1024, description="maximum images of one ranking")
    max_image_pixels: int = Field(40_000_000, ge=4096, le=1_000_000_000, description="maximum pixels of an upload")
    max_total_pixels: int = Field(
        80_000_000,
        ge=4096,
        le=10_000_000_000,
        description="maximum total pixels of the images of one ranking, or of its references",
    )
    decoders: int = Field(2, ge=1, le=64, description="maximum processes that decode uploads, started on demand")
    decode_timeout_s: float = Field(15.0, gt=0, le=600, description="maximum seconds for decoding one upload")
    decode_memory_mib: int = Field(
        1024, ge=64, le=1_048_576, description="maximum memory of a decoding process, beyond its own 50 MiB"
    )
    max_connections: int = Field(
        1000, ge=16, le=100_000, description="maximum connections; at most the system's limit of open files minus 96"
    )
    max_profiles: int = Field(100, ge=1, le=100_000, description="maximum taste profiles of one key")
    max_profiles_mib: int = Field(64, ge=1, le=100_000, description="maximum size of all taste profiles of one key")
    max_body_mib: int = Field(32, ge=1, le=1024, description="maximum size of a request body")
    max_bodies_mib: int = Field(
        64, ge=1, le=1_048_576, description="maximum total size of the bodies of all running requests, before 503"
    )
    body_timeout_s: float = Field(60.0, gt=0, le=3600, description="maximum seconds for receiving a request body")
    pruning: Literal["auto", "off"] = Field("auto", description="whether weak candidates are pruned by default")
    pruning_quality: float = Field(0.97, gt=0, lt=1, description="minimum share of the best-of-N gain that auto keeps")
    pruning_shadow: float = Field(0.0, ge=0, le=1, description="share of generations unpruned to measure pruning")

    lease_s: float = Field(
        60.0, ge=1, le=3600, description="seconds without a heartbeat after which other replicas take over generations"
    )
    attempts: int = Field(2, ge=1, le=100, description="maximum attempts after worker loss; retries run exclusively")
    notice_s: float = Field(0.0, ge=0, le=600, description="seconds that a stopping server accepts requests, unready")
    drain_s: float = Field(
        30.0, ge=0, le=3600, description="maximum seconds that a stopping server waits for running generations"
    )
    stream_s: float = Field(3600.0, ge=1, le=86_400, description="maximum duration of one event stream; clients resume")
    stream_grace_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="seconds that a generation continues after its stream or its OpenAI client is gone",
    )
    retry_window_s: float = Field(
        600.0,
        ge=0,
        le=86_400,
        description="seconds in which a retry of an OpenAI client continues its request; 0: never",
    )
    link_s: float = Field(
        3600.0, ge=60, le=604_800, description="seconds that a signed image link is valid, at least; servers with keys"
    )
    link_keys: str = Field(
        "",
        repr=False,
        description="keys that sign image links, comma-separated; the first signs, all verify; empty for a stored one",
    )
    retention_s: float = Field(604_800.0, ge=60, description="seconds that results are stored")
    sweep_s: float = Field(
        60.0, ge=1, le=3600, description="seconds between purges of expired and recovery of lost generations"
    )

    webhook_secret: str = Field(
        "", repr=False, description="secret that signs webhooks of requests without a key: whsec_ and base64"
    )
    webhook_private: bool = Field(False, description="whether webhooks may use private addresses and plain HTTP")

    telemetry: bool = Field(False, description="whether OpenTelemetry exports to the collector of OTEL_...")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum log level")
    log_format: Literal["console", "json"] = Field("console", description="console lines, or one JSON object per line")

    @field_validator("data_dir")
    @classmethod
    def _check_data_dir(cls, value: Path) -> Path:
        path = value.expanduser().absolute()
        if path in {Path("/"), Path.home()}:
            raise ValueError("must be a dedicated folder, not the root or the home folder")
        if path.exists() and not path.is_dir():
            raise ValueError("is a file; name a folder")
        return path

    @field_validator("presets")
    @classmethod
    def _check_presets(cls, value: Path | None) -> Path | None:
        if value is not None:
            Presets.read(value)
        return value

    @field_validator("model_aliases")
    @classmethod
    def _check_aliases(cls, value: str) -> str:
        Aliases.parse(value)
        return value

    @field_validator("database_url", "database_listen_url", "blob_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value and "://" not in value:
            raise ValueError("must be a URL such as sqlite:///folder/file.db or file:///folder")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        fits = parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment)
        if value and not (fits and parts.username is None and clean_prefix(parts.path) is not None):
            raise ValueError("must be a URL such as https://images.example.com or https://example.com/path")
        return value.rstrip("/")

    @field_validator("root_path")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        prefix = clean_prefix(value)
        if prefix is None:
            raise ValueError("must be a path such as /images, of letters, digits and ._~-, and not begin with /v1")
        return prefix

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        try:
            TrustedProxies(names(value))
        except ValueError:
            raise ValueError("must be IP addresses or networks such as 10.0.0.0/8, comma-separated, or *") from None
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in names(value):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError("must be origins such as https://app.example.com, without a path, or *")
        return value

    @field_validator("link_keys")
    @classmethod
    def _are_link_keys(cls, value: str) -> str:
        if any(len(key) < MIN_LINK_KEY_CHARS for key in names(value)):
            raise ValueError(f"must be keys of at least {MIN_LINK_KEY_CHARS} characters, comma-separated")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(cls, value: str) -> str:
        if value:
            decode_secret(value)
        return value

    @model_validator(mode="after")
    def _check_consistency(self) -> Settings:
        if self.max_queued_candidates < self.max_candidates:
            raise ValueError("MAX_QUEUED_CANDIDATES must be at least MAX_CANDIDATES, or the largest request never fits")
        self._check_models_file()
        parse_guards(self.guards)
        check_rewriter(self.rewriter_url, self.rewriter_model, private=self.rewriter_private)
        if self.max_bodies_mib < self.max_body_mib:
            raise ValueError("MAX_BODIES_MIB must be at least MAX_BODY_MIB; otherwise the largest body never fits")
        if self.default_candidates > self.max_candidates:
            raise ValueError("DEFAULT_CANDIDATES must be at most MAX_CANDIDATES")
        return self

    def _check_models_file(self) -> None:
        """Refuse a file that cannot be read, and aliases of what it does not name."""
        if self.models is None:
            return
        if "generator" in self.model_fields_set:
            raise ValueError("GENERATOR and MODELS exclude each other: name the generator in the file of MODELS")
        try:
            known = self.served
        except ValueError as error:
            raise ValueError(f"MODELS: {error}") from None
        assert known is not None
        scorers = (name for model in known.models for name in (model.settings.scorer, *names(model.settings.scorers)))
        served = {*(model.id for model in known.models), *scorers}
        if dangling := Aliases.parse(self.model_aliases).dangling(served):
            raise ValueError(f"MODEL_ALIASES: {', '.join(dangling)} names no model of the file of MODELS")

    @property
    def served(self) -> ModelsFile | None:
        """The models of the file; None without one. Raises ValueError."""
        return ModelsFile.read(self.models.expanduser(), self) if self.models is not None else None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The accepted host names in lower case; empty for all names."""
        return tuple(name.lower() for name in names(self.allowed_hosts))

    @property
    def origins(self) -> tuple[str, ...]:
        """The allowed origins; hosts in lower case, as browsers send them."""
        return tuple(name.lower() for name in names(self.cors_origins))

    @property
    def proxies(self) -> TrustedProxies:
        """The trusted proxies."""
        return TrustedProxies(names(self.trusted_proxies))

    @property
    def prefix(self) -> str:
        """The path prefix: that of the public URL if set, else `root_path`."""
        return urlsplit(self.public_url).path if self.public_url else self.root_path

    @property
    def signing_keys(self) -> tuple[str, ...]:
        """The configured keys of image links."""
        return names(self.link_keys)

    @property
    def guard_names(self) -> tuple[str, ...]:
        """The guards of every ranking."""
        return parse_guards(self.guards)

    @property
    def database(self) -> str:
        """The database URL: the configured one, or the SQLite file in the data folder."""
        return self.database_url or f"sqlite:///{self.data_dir}/frontrunner.db"

    @property
    def database_options(self) -> DatabaseOptions:
        """How the process uses PostgreSQL."""
        return DatabaseOptions(self.database_connections, self.database_listen_url)

    @property
    def blobs(self) -> str:
        """The image store URL: the configured one, or a folder in the data folder."""
        return self.blob_url or (self.data_dir / "blobs").as_uri()


def format_errors(error: ValidationError) -> list[str]:
    """Return one line per invalid setting, without its value."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        name = ENV_PREFIX + "_".join(str(part) for part in problem["loc"]).upper() if problem["loc"] else "settings"
        lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
    return lines
