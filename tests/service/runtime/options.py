"""Options that tests of several matters ask for."""

from __future__ import annotations

from sinkserve.runtime.v1 import conversation_service_pb2 as pb

CANCELS = pb.SessionOptions(on_disconnect=pb.SessionOptions.ON_DISCONNECT_CANCEL)
TEN = {"max_new_tokens": 10, "ignore_eos": True}
