"""Defects that are injected into rows on request, and drift of their schema."""

from generator_service.defects.account import ACCOUNT_SCHEMA
from generator_service.defects.drift import Drift, describe, parse_drifts
from generator_service.defects.injector import DefectInjector, Sent
from generator_service.defects.kinds import KINDS, Defects, page_of_kinds

__all__ = [
    "ACCOUNT_SCHEMA",
    "KINDS",
    "DefectInjector",
    "Defects",
    "Drift",
    "Sent",
    "describe",
    "page_of_kinds",
    "parse_drifts",
]
