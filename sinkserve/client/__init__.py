"""The SDK: conversations, builds and engines from Python, async and typed.

    async with Client() as client:
        async with client.conversation("demo") as conversation:
            turn = await conversation.say("hello")
            async for delta in turn:
                print(delta.text, end="", flush=True)

A conversation resumes by itself when its stream is lost, and never runs a turn twice.
"""

from sinkserve.client.access.credentials import Token, tls_credentials, token_file
from sinkserve.client.client import Client
from sinkserve.client.conversation import Conversation
from sinkserve.client.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DataLoss,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    SinkServeError,
    Unauthenticated,
    Unavailable,
    Unreachable,
)
from sinkserve.client.reply import (
    Delta,
    Finished,
    FinishReason,
    Timing,
    ToolCall,
    ToolCallDelta,
    Usage,
    WindowNotice,
)
from sinkserve.client.requests import (
    Durability,
    GenerationOptions,
    Message,
    OnDisconnect,
    OnFull,
    ResponseFormat,
    SessionOptions,
    Tool,
)
from sinkserve.client.retry import Retry
from sinkserve.client.turn import Turn

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "Client",
    "Conversation",
    "DataLoss",
    "Delta",
    "Durability",
    "FailedPrecondition",
    "FieldViolation",
    "FinishReason",
    "Finished",
    "GenerationOptions",
    "Internal",
    "InvalidArgument",
    "Message",
    "NotFound",
    "OnDisconnect",
    "OnFull",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "ResponseFormat",
    "Retry",
    "SessionOptions",
    "SinkServeError",
    "Timing",
    "Token",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "Turn",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
    "Usage",
    "WindowNotice",
    "tls_credentials",
    "token_file",
]
