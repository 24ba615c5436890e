"""What was used, as a runtime would tell it: two days, one a page."""

from __future__ import annotations

from typing import Any

from sinkserve.runtime.v1 import usage_service_pb2 as pb
from sinkserve.runtime.v1 import usage_service_pb2_grpc as pb_grpc

DAYS = [
    pb.DayUsage(principal="key:ann", day=day, engine="demo@1", turns=1200, prompt_tokens=34567, generated_tokens=8)
    for day in ("2026-11-29", "2026-11-30")
]


class ScriptedUsage(pb_grpc.UsageServiceServicer):
    """Knows days, and one principal."""

    async def ListUsage(self, request: pb.ListUsageRequest, context: Any) -> pb.ListUsageResponse:
        start = int(request.page_token or 0)
        found = [day for day in DAYS if request.principal in ("", day.principal) and day.day >= request.from_day]
        found = [day for day in found if not request.to_day or day.day <= request.to_day]
        more = str(start + 1) if start + 1 < len(found) else ""
        return pb.ListUsageResponse(usage=found[start : start + 1], next_page_token=more)
