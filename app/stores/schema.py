"""The current tables. `migrations` upgrades older ones."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

generations = Table(
    "generations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("status", String(16), nullable=False),
    Column("created", Double, nullable=False),
    Column("finished", Double),
    Column("lease_until", Double),
    Column("lease_s", Double),
    Column("claim", String(64)),
    Column("claims", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("scorer", Text, nullable=False),
    Column("weights", Text, nullable=False, server_default=""),
    Column("candidates", Integer, nullable=False),
    Column("charged", Integer, nullable=False),
    Column("charged_window", BigInteger),
    Column("attended", Double),
    Column("watched", Double),
    Column("progress", Double, nullable=False, server_default="0"),
    Column("step", Integer),
    Column("live", Integer),
    Column("batch", String(64)),
    Column("batch_index", Integer),
    Column("job", String(16)),
    Column("last_seq", Integer, nullable=False),
    Column("record", Text, nullable=False),
)
batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("created", Double, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("record", Text, nullable=False),
    Column("served", Double, nullable=False),
    Column("cancelled", Double),
    Column("finished", Double),
    Column("status", String(16)),
    Column("webhook_host", String(255)),
    Column("webhook_due", Double),
    Column("webhook_attempts", Integer, nullable=False),
)
"""`served` is when an entry was last claimed.

`webhook_due` is null until the batch ends, and once its webhook is delivered.
"""

events = Table(
    "events",
    metadata,
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("data", Text, nullable=False),
    Column("created", Double, nullable=False),
)
idempotency = Table(
    "idempotency",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), nullable=False),
)
link_secrets = Table(
    "link_secrets",
    metadata,
    Column("secret", String(64), primary_key=True),
    Column("created", Double, nullable=False),
)
identity = Table("identity", metadata, Column("id", String(64), primary_key=True))
"""One row with the database's id."""

taste_profiles = Table(
    "taste_profiles",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("profile", String(64), primary_key=True),
    Column("scorer", Text, nullable=False),
    Column("revision", Text, nullable=False),
    Column("centre", LargeBinary, nullable=False),
    Column("fields", Integer, nullable=False),
)
taste_votes = Table(
    "taste_votes",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("profile", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("generation_id", String(64), nullable=False),
    Column("candidate", Integer, nullable=False),
    Column("over", Integer),
    Column("direction", LargeBinary, nullable=False),
)
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("rights", Text, nullable=False),
    Column("quota", Integer),
    Column("window_s", Integer, nullable=False),
    Column("secret", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("revoked", Double),
)
api_key_usage = Table(
    "api_key_usage",
    metadata,
    Column("key_id", ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    Column("window", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
)
served_models = Table(
    "served_models",
    metadata,
    Column("replica", String(64), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("card", Text, nullable=False),
    Column("weights", Text, nullable=False, server_default=""),
    Column("seen", Double, nullable=False),
)
"""`seen` is a time of leases, see `generations.store`.

`weights` is a generator's revision, here and in `generations`.
"""

webhooks = Table(
    "webhooks",
    metadata,
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("due", Double, nullable=False),
    Column("host", String(255), nullable=False, server_default=""),
)
