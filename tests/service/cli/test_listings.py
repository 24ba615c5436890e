"""Sessions, engines, builds and garbage on the command line: listed, shown, changed, deleted."""

from __future__ import annotations

import json

from sinkserve.engine.v1.engine_pb2 import Hardware
from tests.service.cli.shell import Shell, write_spec


async def test_sessions_are_found_by_label_and_changed(shell: Shell) -> None:
    await shell.run("chat", "demo", "--keep", "-p", "one")
    (name,) = shell.runtime.sessions
    ran = await shell.run("sessions", "update", name, "--label", "a=b=c", "--delete-after-idle", "60", "--json")
    changed = json.loads(ran.out)["session"]
    assert (changed["labels"], changed["options"]["delete_after_idle_duration"]) == ({"a": "b=c"}, "60s")
    for options, found in (("--label a=b=c", 1), ("--label a=b", 0), ("--engine demo", 1), ("--engine other", 0)):
        ran = await shell.run("sessions", "list", "--json", *options.split())
        assert len(json.loads(ran.out)["sessions"]) == found
    ran = await shell.run("sessions", "update", name, "--no-labels", "--delete-after-idle", "never", "--json")
    assert json.loads(ran.out)["session"]["labels"] == {}
    for wrong in ((), ("--label", "a"), ("--delete-after-idle", "soon"), ("--label", "a=b", "--no-labels")):
        assert (await shell.run("sessions", "update", name, *wrong)).code == 2


async def test_every_listing_is_a_table_and_a_document(shell: Shell) -> None:
    await shell.run("build", str(write_spec(shell.folder)))
    await shell.run("chat", "demo", "--keep", "-p", "hello there")
    await shell.run("engines", "load", "demo@1")
    for args, key, word in (
        (("builds", "list"), "builds", "succeeded"),
        (("engines", "list"), "engines", "demo@1"),
        (("engines", "loaded"), "engines", "0 of 4"),
        (("sessions", "list"), "sessions", "demo@1"),
    ):
        table = await shell.run(*args)
        assert (table.code, word in table.out) == (0, True)
        (item,) = (await shell.run(*args, "--json")).document[key]
        assert item


async def test_usage_is_a_table_and_a_document_of_the_days_asked_for(shell: Shell) -> None:
    for options, days in (
        ("", ["2026-11-29", "2026-11-30"]),
        ("--principal key:ann --from 2026-11-30", ["2026-11-30"]),
        ("--to 2026-11-29", ["2026-11-29"]),
        ("--principal key:bob", []),
    ):
        document = (await shell.run("usage", *options.split(), "--json")).document
        assert [each["day"] for each in document["usage"]] == days
        table = await shell.run("usage", *options.split())
        assert [day for day in ("2026-11-29", "2026-11-30") if day in table.out] == days
    table = await shell.run("usage")
    assert all(word in table.out for word in ("key:ann", "demo@1", "1,200", "34,567", "GENERATED TOKENS"))
    assert (await shell.run("usage", "--principal", "key:bob")).err == "nothing was used\n"


async def test_an_empty_listing_says_so_and_is_an_empty_document(shell: Shell) -> None:
    ran = await shell.run("sessions", "list")
    assert (ran.out, ran.err) == ("", "no sessions\n")
    assert (await shell.run("sessions", "list", "--json")).document == {"sessions": []}


async def test_a_session_is_shown_and_deleted(shell: Shell) -> None:
    await shell.run("chat", "demo", "--keep", "-p", "hello [bold] there")
    (name,) = shell.runtime.sessions
    shown = await shell.run("sessions", "show", name)
    assert "user hello [bold] there\n" in shown.out
    assert "reply hello [bold] there\n" in shown.out
    document = (await shell.run("sessions", "show", name, "--json")).document
    assert (document["session"]["name"], document["turns"][0]["text"]) == (name, "hello [bold] there")
    assert (await shell.run("sessions", "delete", name)).code == 0
    assert not shell.runtime.sessions


async def test_an_engine_that_was_compiled_shows_for_what(shell: Shell) -> None:
    await shell.run("build", str(write_spec(shell.folder)))
    assert "hardware" not in (await shell.run("engines", "show", "demo")).out
    hardware = Hardware(gpu="NVIDIA H200", compute_capability="9.0", tensorrt_version="11.4.0.106")
    hardware.cuda_version, hardware.platform = "13.0", "linux"
    shell.builder.engines[0].manifest.hardware.CopyFrom(hardware)
    shown = (await shell.run("engines", "show", "demo")).out
    assert "NVIDIA H200, compute capability 9.0, TensorRT 11.4.0.106, CUDA 13.0, linux\n" in shown


async def test_an_engine_that_was_compiled_without_a_gpu_shows_for_which_and_what_is_in_it(shell: Shell) -> None:
    await shell.run("build", str(write_spec(shell.folder)))
    manifest = shell.builder.engines[0].manifest
    manifest.hardware.MergeFrom(Hardware(tensorrt_version="1.7.1.116", cuda_version="13.0", platform="linux-x86_64"))
    manifest.hardware.compute_capabilities.extend(["8.6", "12.0"])
    manifest.network.update({"MATRIX_MULTIPLY": 29, "KV_CACHE_UPDATE": 8})
    shown = (await shell.run("engines", "show", "demo")).out
    assert (
        "compiled without a GPU, for compute capability 8.6, 12.0; TensorRT-RTX 1.7.1.116, a driver for CUDA 13"
        in shown
    )
    assert "37 layers: 29 matrix multiply, 8 kv cache update\n" in shown


async def test_engines_are_shown_aliased_verified_and_deleted(shell: Shell) -> None:
    await shell.run("build", str(write_spec(shell.folder)))
    assert "llama, 7.9M" in (await shell.run("engines", "show", "demo")).out
    assert "all as they were" in (await shell.run("engines", "verify", "demo")).out
    assert "demo:good" in (await shell.run("engines", "alias", "demo@1", "good")).out
    assert (await shell.run("engines", "alias", "demo", "--json")).document["aliases"][0]["alias"] == "good"
    assert (await shell.run("engines", "alias", "demo", "good", "--delete")).code == 0
    refused = await shell.run("engines", "delete", "demo@1")
    assert (refused.code, "ENGINE_IN_USE" in refused.err) == (1, True)
    assert (await shell.run("engines", "delete", "demo@1", "--force")).code == 0
    assert (await shell.run("engines", "list", "--json")).document == {"engines": []}


async def test_garbage_is_counted_then_collected(shell: Shell) -> None:
    counted = await shell.run("engines", "gc", "--dry-run")
    assert (counted.code, "3 blobs would be deleted, 3.0 KB" in counted.out) == (0, True)
    assert "3 blobs deleted" in (await shell.run("engines", "gc")).out
    collected = (await shell.run("engines", "gc", "--json")).document["collected"]
    assert collected == {"deleted_blobs": "0", "deleted_bytes": "0", "published_blobs": "0", "claimed_blobs": "1"}
