"""Audits: what candidates show by a probe, and what the ranking favoured.

`AuditService` makes or reads generations, and asks a probe about every candidate. The statistics are in
`app.engine.audits`.
"""

from app.service.audits.audit import MAX_CANDIDATES, MAX_GENERATIONS, AuditParams, AuditReport, AuditService

__all__ = ["MAX_CANDIDATES", "MAX_GENERATIONS", "AuditParams", "AuditReport", "AuditService"]
