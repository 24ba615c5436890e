"""Requests are counted by route and status, and no client makes a series of its own."""

from __future__ import annotations

import httpx2
from prometheus_client import generate_latest

from sinkserve.client.settings import ClientSettings
from sinkserve.web.app import make_app
from sinkserve.web.settings import WebSettings


async def test_requests_are_counted_by_route_whatever_they_ask_for() -> None:
    app = make_app(WebSettings(), ClientSettings(runtime="127.0.0.1:1", builder="127.0.0.1:1"))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as web:
        for path in ("/v1/responses/a", "/v1/responses/b", "/nowhere/1", "/nowhere/2", "/livez"):
            await web.get(path)
        await web.request("BREW", "/v1/responses")
        await web.get("/v1/models", headers={"host": "pages.example.com"})
    told = generate_latest(app.state.requests.registry).decode().splitlines()
    assert sorted(line for line in told if line.startswith("sinkserve_web_requests_total")) == [
        'sinkserve_web_requests_total{method="GET",route="/v1/responses/{response}",status="404"} 2.0',
        'sinkserve_web_requests_total{method="other",route="/v1/responses",status="405"} 1.0',
        'sinkserve_web_requests_total{method="other",route="none",status="400"} 1.0',
        'sinkserve_web_requests_total{method="other",route="none",status="404"} 2.0',
    ]
