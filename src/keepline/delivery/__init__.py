"""Delivery: every recipient gets every record it should have, driven by a sent log."""

from __future__ import annotations

from keepline.delivery.dispatch import Dispatcher
from keepline.delivery.exports import (
    Pending,
    export,
    export_task,
    export_tasks_individually,
    pending,
    print_export_queue,
)
from keepline.delivery.recipients import Recipient
from keepline.delivery.report import ExportReport, RecipientReport
from keepline.delivery.transport import Capabilities, Sending, Transport

__all__ = [
    "Capabilities",
    "Dispatcher",
    "ExportReport",
    "Pending",
    "Recipient",
    "RecipientReport",
    "Sending",
    "Transport",
    "export",
    "export_task",
    "export_tasks_individually",
    "pending",
    "print_export_queue",
]
