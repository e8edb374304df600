"""`llorch run MODEL`: talk to a model. Whatever is missing for that is brought and started; what is there is used.

The warm way, where orchestratord has a worker for the model, is two HTTP requests and imports nothing that they do not
need. All else is in `preparing`.
"""

from __future__ import annotations

import argparse
import os
import sys

from llorch.base import config
from llorch.base.addresses import is_loopback
from llorch.base.errors import InvalidRequest, ModelNotFound, Unreachable, UsageError
from llorch.base.home import find_home
from llorch.client.endpoint import configured_url, read_key
from llorch.client.events import End
from llorch.client.request import InferenceRequest
from llorch.client.sync import Client
from llorch.host import interrupts
from llorch.remote import own_orchestratord, prompt, served, terminal
from llorch.remote.answer import CANCELLED, figures
from llorch.remote.conversation import Conversation, Reply
from llorch.remote.served import Way
from llorch.wire.catalog import Catalog, id_from_repo, parse_catalog
from llorch.wire.tasks import parse_task


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch run`."""
    parser.add_argument("model", metavar="MODEL", help="a model of the catalog, or ORG/REPO of the hub")
    asked = "ask this and leave (default: chat, or ask stdin)"
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", default=[], help=asked)
    parser.add_argument("--host", action="append", metavar="HOST[,HOST …|all]", help="pools that may serve it")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer (default 256)")
    parser.add_argument("--temperature", type=prompt.finite, metavar="X", help="0 to 2; 0: the likeliest token")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    parser.add_argument("--orchestrator", metavar="URL", help="orchestratord's URL (default: configured, or our own)")
    parser.add_argument("--key-file", metavar="FILE", help="file with the client key (default: LLORCH_API_KEY)")
    parser.add_argument("--json", action="store_true", help="one answer as one JSON object")
    parser.epilog = (
        "On a terminal it is a chat: /help says how. Without --host this machine serves; 'all' is every registered "
        "pool and this machine. orchestratord is started here when none runs. It and the worker stay, so that the "
        "next run begins at once. Examples: llorch run qwen-0.5b; echo Hello | llorch run qwen-0.5b"
    )


def run(arguments: argparse.Namespace) -> int:
    """The chat or the one answer. JSON: {model, text, stop_reason, tokens_out, …, warm, first_token_s}."""
    _check_sampling(arguments)
    question = _question(arguments)
    if question is None and arguments.json:
        raise UsageError("--json is for one answer: give a prompt, as an argument or through a pipe")
    way = _find_way(arguments)
    talk = Conversation(
        way.client,
        way.model,
        worker_id=way.worker_id,
        system=arguments.system,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    if question is not None:
        return _answer(talk, way, question, arguments)
    from llorch.remote import chat

    def prepare() -> None:
        nonlocal way
        if not _is_there(way, arguments):
            way = _find_way(arguments)
            talk.go_on_at(way.client, way.worker_id)

    return chat.chat(talk, prepare)


def _is_there(way: Way, arguments: argparse.Namespace) -> bool:
    """Is the way still good? Our own orchestratord must be the one that we found: after its end its port is anybody's.

    One on another machine may be bringing the worker back itself, and is left to it.
    """
    if configured_url(os.environ, arguments.orchestrator) is None:
        running = own_orchestratord.find(os.environ)
        if running is None or running.url != way.client.url:
            return False
    elif not is_loopback(way.client.endpoint.host):
        return True
    try:
        there = served.ready(way.client, way.model)
    except Unreachable:
        return False
    return bool(there) if way.worker_id is None else way.worker_id in there


def _check_sampling(arguments: argparse.Namespace) -> None:
    """What orchestratord would refuse is refused before anything is brought or started. Raises UsageError."""
    _size_bytes(arguments.system or "", "--system")
    given = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature, "seed": arguments.seed}
    try:
        parse_task(InferenceRequest(prompt="?", **given).to_body())
    except InvalidRequest as error:
        raise UsageError("--" + error.message.replace("max_tokens", "max-tokens")) from None


def _question(arguments: argparse.Namespace) -> str | None:
    """What to ask once; None for a chat. Raises UsageError."""
    if arguments.prompt:
        text = " ".join(arguments.prompt)
    elif sys.stdin is None or not sys.stdin.isatty():
        text = prompt.read_stdin()
    else:
        return None
    if not text.strip():
        raise UsageError("the prompt is empty")
    if _size_bytes(text, "the prompt") > prompt.PROMPT_SIZE_MAX:
        raise UsageError(f"the prompt has more than {prompt.PROMPT_SIZE_MAX} bytes")
    return text


def _size_bytes(text: str, name: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not UTF-8") from None


def _answer(talk: Conversation, way: Way, question: str, arguments: argparse.Namespace) -> int:
    """Ask once; the text on stdout, the figures in the last line on stderr."""
    with interrupts.as_exit():
        reply = talk.ask(question, None if arguments.json else terminal.write)
    end = reply.end
    if arguments.json:
        terminal.write_json(_body(reply, end, way))
    elif not reply.text.endswith("\n"):
        terminal.write("\n")
    line = figures(end, reply.ttft_s)
    if way.is_warm and reply.first_token_s is not None:
        line += f", run_warm_first_token_s={reply.first_token_s:.2f}"
    terminal.tell(line)
    return CANCELLED if end.stop_reason == "CANCELLED" else 0


def _body(reply: Reply, end: End, way: Way) -> dict[str, object]:
    return {
        "model": way.model,
        "text": reply.text,
        "stop_reason": end.stop_reason,
        "tokens_out": end.tokens_out,
        "prompt_tokens": end.prompt_tokens,
        "decode_time_ms": end.decode_time_ms,
        "seed": end.seed,
        "job_id": reply.job_id,
        "worker_id": reply.worker_id,
        "orchestrator": way.client.url,
        "warm": way.is_warm,
        "first_token_s": None if reply.first_token_s is None else round(reply.first_token_s, 3),
    }


def _find_way(arguments: argparse.Namespace) -> Way:
    """The way that is there, else a prepared one."""
    url = configured_url(os.environ, arguments.orchestrator)
    running = None if url else own_orchestratord.find(os.environ)
    at = url or (running.url if running is not None else None)
    key = read_key(os.environ, arguments.key_file) or ""
    client = None if at is None else Client(at, key=key)
    catalog = _catalog()
    model = _model_id(arguments.model, catalog)
    pools = [name for value in arguments.host or [] for name in value.split(",")]
    if client is not None and (not pools or pools == ["all"]) and served.ready(client, model):
        return Way(client, model, None, is_warm=True)
    if not pools and "/" not in arguments.model:
        _check_name(arguments.model, catalog, client)
    from llorch.remote.preparing import Preparation

    wanted = Preparation(
        name=arguments.model,
        model=model,
        pools=pools,
        orchestrator=url,
        is_named=bool(arguments.orchestrator),
        key=key,
        settings=config.load_file(config.config_path(os.environ)),
    )
    return wanted.way()


def _catalog() -> Catalog:
    """What this host knows; a damaged file is llorch-pool's to mend, and to speak of."""
    try:
        return parse_catalog(find_home(os.environ).catalog_path.read_bytes())
    except (OSError, InvalidRequest):
        return Catalog()


def _model_id(name: str, catalog: Catalog) -> str:
    """The id that workers serve `name` by. Raises UsageError, ModelNotFound."""
    if "@" in name:
        base = name.partition("@")[0]
        raise UsageError(f"a revision is chosen when downloading: llorch-pool models download {name}; then run {base}")
    if "/" in name:
        found = catalog.by_repo(name)
        return found.id if found is not None else id_from_repo(name)
    found = catalog.find(name)
    return name if found is None else found.id


def _check_name(name: str, catalog: Catalog, client: Client | None) -> None:
    """Raises ModelNotFound, with what was probably meant, before anything is started."""
    try:
        catalog.get(name)
    except ModelNotFound as error:
        known = [] if client is None else [str(row.get("id")) for row in client.models().get("models", [])]
        also = f"; served now: {', '.join(known)}" if known else ""
        raise ModelNotFound(f"{error.message}{also}; a repository of the hub is named ORG/REPO") from None
