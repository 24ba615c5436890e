"""`sinkserve run`: from a checkpoint to a chat, in one command."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, cast

import typer

from builder_service.sources.locate import open_source
from common.settings import SettingsError
from common.spec.model_spec import ModelSpec, Source
from sinkserve.cli.build.submit import build_here, readable_roots
from sinkserve.cli.chat import options
from sinkserve.cli.chat.chat import Chat, given, run_chat
from sinkserve.cli.chat.form import read_form
from sinkserve.cli.chat.template import read_variables
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.cli.terminal.engine_choice import choose_kv, choose_target
from sinkserve.cli.terminal.failures import WRONG, Failure, explained
from sinkserve.cli.terminal.options import Adapter, own_remote
from sinkserve.cli.terminal.suggest import SpecChoices, source_of, suggest_spec
from sinkserve.client import GenerationOptions, SessionOptions

_SLOTS = 4  # one for the chat, and a few to spare


def run(  # noqa: PLR0917 - typer reads a command's options from its parameters
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A checkpoint folder or GGUF file, or hf://ORG/REPO.")
    ],
    adapter: Adapter = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the engine; else the folder's.")] = None,
    precision: options.Weights = None,
    window: Annotated[int | None, typer.Option("--window", min=1, help="Recent tokens that are seen.")] = None,
    sinks: Annotated[int | None, typer.Option("--sinks", min=0, help="First tokens that are kept.")] = None,
    prompt: options.Prompt = None,
    system: options.System = None,
    template: options.Template = None,
    session: Annotated[str | None, typer.Option("--session", help="Go on with this session; nothing is built.")] = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    stop: options.Stop = None,
    seed: options.Seed = None,
    json_schema: options.JsonSchema = None,
    form: options.Form = None,
) -> None:
    """Build a checkpoint folder if need be, and chat with it.

    Starts a builder and a runtime for itself, which keep what they make under SINKSERVE_HOME (default ~/.sinkserve).
    """
    generation = given(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    generation |= given(repetition_penalty=repetition_penalty, stop=stop, seed=seed)
    asked = Chat(session=session, prompt=prompt, resume_command=f"sinkserve run {folder} --session")
    new_session = SessionOptions(system_prompt=system) if system else SessionOptions()
    with explained():
        generation |= given(response_format=read_form(json_schema, form))
        asked = replace(asked, session_options=new_session, generation=cast("GenerationOptions", generation))
        variables = read_variables(template or ())
        choices = SpecChoices(name, precision, window, sinks, _SLOTS, variables=variables)
        _build_and_chat(source_of(folder, adapter), choices, asked)


def _build_and_chat(source: Source, choices: SpecChoices, asked: Chat) -> None:
    chosen = _choose_spec(source, choices) if asked.session is None else None
    try:
        with embedded_services(*readable_roots(source)) as services:
            if chosen:
                asked = replace(asked, engine=asyncio.run(build_here(services.builder, *chosen)))
            run_chat(asked, services.runtime)
    except SettingsError as error:
        raise Failure(str(error), code=WRONG) from None


def _choose_spec(source: Source, choices: SpecChoices) -> tuple[ModelSpec, tuple[str, ...]]:
    """What to build, and why it is as it is."""
    target = choose_target(choices.precision)
    with open_source(source, own_remote()) as checkpoint:
        suggestion = suggest_spec(checkpoint, source, replace(choices, target=target.target))
    spec = suggestion.spec
    why = [f"{target.target}: {target.reason}", f"{spec.precision}: {suggestion.precision_reason}"]
    if kv := choose_kv(spec.target, spec.precision):
        held = spec.options.onnxruntime.model_copy(update={"kv_precision": kv.precision})
        spec = spec.model_copy(update={"options": spec.options.model_copy(update={"onnxruntime": held})})
        why.append(f"keys and values in {kv.precision}: {kv.reason}")
    return spec, tuple(why)
