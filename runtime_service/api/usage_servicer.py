"""UsageService on the wire: what was used, for who may see it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import grpc

from common.auth.principal import LONGEST_NAME, Principal, Role
from common.controls import check_name
from common.db.paging import read_page
from common.errors import PermissionDenied, Reason
from common.rpc.calls.call import current_call
from runtime_service.domain.usage import check_day
from runtime_service.storage.usage import UsageRecords
from sinkserve.runtime.v1 import usage_service_pb2 as pb
from sinkserve.runtime.v1 import usage_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class UsageServicer(pb_grpc.UsageServiceServicer):
    """See the proto."""

    def __init__(self, records: UsageRecords) -> None:
        self._records = records

    async def ListUsage(self, request: pb.ListUsageRequest, context: Context) -> pb.ListUsageResponse:
        check_name(request.principal, "principal", LONGEST_NAME)
        check_day(request.from_day, "from_day")
        check_day(request.to_day, "to_day")
        whose = _whose(current_call().principal, request.principal)
        listing = f"usage {request.principal!r} {request.from_day} {request.to_day}"
        page = read_page(request.page_size, request.page_token, listing, (str, str, str))
        found, token = await asyncio.to_thread(self._records.page, whose, request.from_day, request.to_day, page)
        return pb.ListUsageResponse(usage=[pb.DayUsage(**asdict(each)) for each in found], next_page_token=token)


def _whose(caller: Principal, asked: str) -> str | None:
    """Whose usage is listed: None for everybody's. Raises PermissionDenied (ROLE_MISSING)."""
    if caller.owner is None:
        return asked or None
    if asked in ("", caller.owner):
        return caller.owner
    what = f"what {asked!r} used is seen with role {Role.ADMIN}, which {caller.name!r} does not have"
    raise PermissionDenied(Reason.ROLE_MISSING, what, role=Role.ADMIN, principal=caller.name)
