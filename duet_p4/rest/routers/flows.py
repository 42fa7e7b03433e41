"""The path of a device that records flows."""

from __future__ import annotations

from fastapi import APIRouter

from duet_p4.api.flows import FlowRecord, FlowRecordService


def router(service: FlowRecordService) -> APIRouter:
    """Return the path, answered by `service`."""
    api = APIRouter(prefix="/v1/flow-records", tags=["status"])

    @api.get("")
    async def get_flow_records() -> list[FlowRecord]:
        """Return what sampled packets say of the flows of the last seconds, the latest first."""
        return list(service.records())

    return api
